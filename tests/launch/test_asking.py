"""Stopping when asked: a checkpoint at that step, and the rest later, as if nothing had been."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pipeline.cluster import load_cluster
from pipeline.errors import InterruptedByUserError
from pipeline.launch.events import Event, Progress
from pipeline.launch.on_ray import run_on_workers
from pipeline.launch.run_folder import RunFolder
from pipeline.launch.worker import Job, train
from pipeline.recipe import load_recipe
from pipeline.tracking.client import connect
from pipeline.tracking.runs import start_run
from pipeline.training.checkpoint import checkpoints

ILSVRC = Path(sys.executable).with_name("ilsvrc")


@pytest.fixture
def make_job(data_dir: Path, tracking_uri: str, tmp_path: Path) -> Callable[..., Job]:
    def make(name: str, *cluster: str) -> Job:
        folder = tmp_path / name
        folder.mkdir()
        return Job(
            load_recipe("smoke", ["epochs=2"]),
            load_cluster("laptop", [f"data_dir={data_dir}", *cluster]),
            RunFolder(folder),
            tracking_uri,
            start_run(tracking_uri, "tests", run_name=name, params={}, tags={}),
        )

    return make


def ignore(event: Event) -> None:
    pass


@pytest.mark.parametrize(("workers", "stop"), [(0, 5), (0, 15), (2, 5)])
def test_a_stopped_training_goes_on_from_its_step(
    make_job: Callable[..., Job], ray_session: None, workers: int, stop: int
) -> None:
    options = (f"workers.count={workers}", "saving.log_every_steps=1")
    undisturbed, stopped = make_job("undisturbed", *options), make_job("stopped", *options)
    run_on_workers(train, undisturbed, ignore)

    # The first worker asks as early before `stop` as it takes: with others the vote on it is over a
    # step later than it is cast.
    step = stop - (1 if workers == 0 else 2)

    def train_and_ask(job: Job, worker: object, report: Callable[[Event], None]) -> object:
        def ask(event: Event) -> None:
            if isinstance(event, Progress) and (event.epoch, event.step) == (0, step):
                job.folder.stop_request.touch()
            report(event)

        return train(job, worker, ask)  # type: ignore[arg-type]

    with pytest.raises(InterruptedByUserError, match="stopped as asked, after 0 epochs and"):
        run_on_workers(train_and_ask, stopped, ignore)  # type: ignore[arg-type]
    (checkpoint,) = checkpoints(stopped.folder.checkpoints)
    assert checkpoint.name.startswith(f"epoch-0000-step-{stop:06d}")

    stopped.folder.stop_request.unlink()
    run_on_workers(train, stopped, ignore)
    ours, theirs = load_file(stopped.folder.weights), load_file(undisturbed.folder.weights)
    assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)
    history = connect(stopped.tracking_uri).get_metric_history(
        stopped.tracking_run_id, "train/loss"
    )
    assert [metric.step for metric in history] == list(range(1, 31))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_schedulers_signal_saves_and_the_same_command_goes_on(
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
            asked = time.monotonic()
            break
    output, errors = process.communicate(timeout=120)
    assert time.monotonic() - asked < 30
    assert process.returncode == 130, errors
    assert f"{number.name}: stopping after this step, with a checkpoint; within 30 s" in output
    assert "stopped as asked, after" in errors.replace("\n", " ")
    assert list((workspace / "runs" / "mine" / "checkpoints").glob("*.pt"))
