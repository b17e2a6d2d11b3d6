"""Stopping on request: a checkpoint at that step, and the same result after resuming."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_jobs import MakeJob, tracked_losses

from benchmarks.recovery_time import worker_processes
from pipeline.launch.events import Event, StepsReport
from pipeline.launch.ray_train import run_on_workers
from pipeline.launch.stop_signal import stop_on_signals
from pipeline.launch.training_job import TrainingJob
from pipeline.runtime.errors import InterruptedByUserError
from pipeline.trainer.worker import train
from pipeline.training.checkpoint import checkpoints, position_of

ILSVRC = Path(sys.executable).with_name("ilsvrc")


def ignore(event: Event) -> None:
    pass


@pytest.mark.parametrize(("workers", "stop"), [(0, 5), (0, 15), (2, 5)])
def test_a_stopped_training_resumes_at_its_step_with_the_same_result(
    make_job: MakeJob, ray_session: None, workers: int, stop: int
) -> None:
    options = (f"workers.count={workers}", "saving.log_every_steps=1")
    undisturbed, stopped = (
        make_job(name, ["epochs=2"], options) for name in ("undisturbed", "stopped")
    )
    run_on_workers(train, undisturbed, ignore)

    # The request comes a step before `stop`, and with several workers one more, since they receive
    # it a step late.
    step = stop - (1 if workers == 0 else 2)

    def train_and_stop(job: TrainingJob, worker: object, report: Callable[[Event], None]) -> object:
        def request_stop(event: Event) -> None:
            if isinstance(event, StepsReport) and (event.epoch, event.step) == (0, step):
                job.folder.stop_request.touch()
            report(event)

        return train(job, worker, request_stop)  # type: ignore[arg-type]

    with pytest.raises(InterruptedByUserError, match="stopped as asked, after 0 epochs and"):
        run_on_workers(train_and_stop, stopped, ignore)  # type: ignore[arg-type]
    (checkpoint,) = checkpoints(stopped.folder.checkpoints)
    assert checkpoint.name.startswith(f"epoch-0000-step-{stop:06d}")

    stopped.folder.stop_request.unlink()
    run_on_workers(train, stopped, ignore)
    ours, theirs = load_file(stopped.folder.weights), load_file(undisturbed.folder.weights)
    assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)
    assert [step for step, _ in tracked_losses(stopped)] == list(range(1, 31))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_schedulers_signal_saves_a_checkpoint_and_stops(
    workspace: Path, number: signal.Signals
) -> None:
    command = [str(ILSVRC), "train", "smoke", "--run", "mine", "--set", "epochs=30"]
    command += ["--set", "cluster.workers.count=0"]
    environment = {**os.environ, "COLUMNS": "100"}
    process = subprocess.Popen(
        command, cwd=workspace, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 2/30"):
            process.send_signal(number)
            signaled = time.monotonic()
            break
    output, errors = process.communicate(timeout=120)
    assert time.monotonic() - signaled < 30
    assert process.returncode == 130, errors
    assert f"{number.name}: stopping after this step, with a checkpoint; within 30 s" in output
    assert "stopped as asked, after" in errors.replace("\n", " ")
    assert list((workspace / "runs" / "mine" / "checkpoints").glob("*.pt"))


def test_a_checkpoint_is_saved_on_a_request_file_and_after_some_time(make_job: MakeJob) -> None:
    requested = make_job("requested", ["epochs=1"], ["workers.count=0", "saving.log_every_steps=1"])

    def request_checkpoint(event: Event) -> None:
        if isinstance(event, StepsReport) and event.step == 5:
            requested.folder.save_request.touch()

    run_on_workers(train, requested, request_checkpoint)
    saved = [position_of(path) for path in checkpoints(requested.folder.checkpoints)]
    assert saved == [(1, 0), (0, 6)]
    assert not requested.folder.save_request.exists()

    often = make_job("often", ["epochs=1"], ["workers.count=0", "saving.checkpoint_minutes=1e-6"])
    run_on_workers(train, often, ignore)
    saved = [position_of(path) for path in checkpoints(often.folder.checkpoints)]
    assert saved == [(1, 0), (0, 14), (0, 13)]  # all were written, three stay
    ours, theirs = load_file(requested.folder.weights), load_file(often.folder.weights)
    assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)


def test_a_signal_to_one_worker_stops_all_workers(make_job: MakeJob, ray_session: None) -> None:
    job = make_job("run", ["epochs=40"], ["saving.log_every_steps=1"])

    def signal_one(event: Event) -> None:
        if isinstance(event, StepsReport) and (event.epoch, event.step) == (1, 1):
            workers = worker_processes()
            workers[-1].send_signal(signal.SIGUSR1)

    with pytest.raises(InterruptedByUserError, match=r"stopped as asked, after [1-9]"):
        run_on_workers(train, job, signal_one)
    newest = checkpoints(job.folder.checkpoints)[0]
    assert position_of(newest) > (1, 1)


def test_only_the_second_signal_interrupts_even_after_a_request_by_file(make_job: MakeJob) -> None:
    folder, said = make_job().folder, list[str]()
    folder.stop_request.touch()
    with stop_on_signals(folder, 30, said.append):
        os.kill(os.getpid(), signal.SIGINT)
        assert said == [
            "SIGINT: stopping after this step, with a checkpoint; once more stops at once"
        ]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
