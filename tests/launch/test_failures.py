"""Workers that die, images that rot, people who press Ctrl-C: injected for real."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from rich.console import Console
from small_jobs import MakeJob

from benchmarks.recovery_time import worker_processes
from pipeline.config.cluster import load_cluster
from pipeline.config.recipe import load_recipe
from pipeline.data.store.store import Store
from pipeline.evaluation.metrics import Counts
from pipeline.launch.events import Event, ImagesScored, Message, Report, StepsReport, WorkerStarted
from pipeline.launch.ray_train import run_on_workers
from pipeline.launch.training_job import TrainingJob, watched
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.distributed import Worker
from pipeline.runtime.errors import UserError, WorkerFailedError
from pipeline.runtime.storage import file_lock
from pipeline.tracking.mlflow_client import connect
from pipeline.tracking.queries import evaluated_runs, tracked_run
from pipeline.trainer.driver import run_training
from pipeline.trainer.worker import train

ILSVRC = Path(sys.executable).with_name("ilsvrc")


def ignore(event: Event) -> None:
    pass


def train_held_at(
    epoch: int, step: int, *, evaluating: bool = False
) -> Callable[[TrainingJob, Worker, Report], Counts]:
    """Return a training that waits after this step, until there is `free` in the run's folder.

    Or when the first images of the evaluation after it are scored.
    """

    # Defined inside, so that it travels to the workers by value.
    def train_held(job: TrainingJob, worker: Worker, report: Report) -> Counts:
        last = (-1, -1)

        def hold(event: Event) -> None:
            nonlocal last
            report(event)
            if isinstance(event, StepsReport):
                last = event.epoch, event.step
            if last == (epoch, step) and isinstance(
                event, ImagesScored if evaluating else StepsReport
            ):
                while not (job.folder.path / "free").exists():
                    time.sleep(0.05)

        return train(job, worker, hold)

    return train_held


def test_a_users_mistake_on_any_worker_comes_back_as_itself(
    make_job: MakeJob, ray_session: None
) -> None:
    # Defined inside, so that it travels to the workers by value.
    def complain(job: TrainingJob, worker: Worker, report: Report) -> None:
        if worker.rank == 1:
            raise UserError("shard-7: the image daisy/3 can't be decoded; prepare it again")

    with pytest.raises(UserError, match="daisy/3 can't be decoded"):
        run_on_workers(complain, make_job(), ignore)


def test_a_defect_leaves_its_traceback_in_the_runs_folder(
    make_job: MakeJob, ray_session: None
) -> None:
    def stumble(job: TrainingJob, worker: Worker, report: Report) -> None:
        raise ZeroDivisionError(f"rank {worker.rank} divided by nothing")

    job = make_job()
    with pytest.raises(WorkerFailedError, match=re.escape(str(job.folder.errors))):
        run_on_workers(stumble, job, ignore)
    text = job.folder.errors.read_text()
    assert "divided by nothing" in text
    assert "in stumble" in text


@pytest.mark.parametrize(
    ("epoch", "step", "evaluating"), [(1, 6, False), (2, 15, True)], ids=["training", "evaluating"]
)
def test_a_killed_worker_is_replaced_and_nothing_is_tracked_twice(
    make_job: MakeJob,
    ray_session: None,
    capfd: pytest.CaptureFixture[str],
    epoch: int,
    step: int,
    evaluating: bool,
) -> None:
    job = make_job(
        recipe=["epochs=3"],
        cluster=[
            "workers.max_failures=1",
            "saving.checkpoint_every_steps=4",
            "saving.log_every_steps=1",
        ],
    )
    events: list[Event] = []
    free = job.folder.path / "free"

    def kill_one(event: Event) -> None:
        events.append(event)
        last = [each for each in events if isinstance(each, StepsReport)][-1:]
        is_then = [(each.epoch, each.step) for each in last] == [(epoch, step)]
        if is_then and isinstance(event, ImagesScored if evaluating else StepsReport):
            if not free.exists():
                _, victim = worker_processes()
                victim.kill()
            free.touch()

    held = train_held_at(epoch, step, evaluating=evaluating)
    counts = run_on_workers(held, job, kill_one)
    assert counts.images == 899
    notes = [event.text for event in events if isinstance(event, Message)]
    lost, goes_on = notes
    assert lost == "a worker was lost; all start again"
    assert goes_on.startswith(f"goes on after {epoch} epochs")
    assert capfd.readouterr().out == ""  # neither Ray nor a worker is heard
    history = connect(job.tracking_uri).get_metric_history(
        job.folder.tracking_run_id(), "train/loss"
    )
    assert [metric.step for metric in history] == list(range(1, 46))


def test_a_worker_that_hangs_is_ended_and_the_training_goes_on(
    make_job: MakeJob, ray_session: None
) -> None:
    job = make_job(
        recipe=["epochs=3"],
        cluster=[
            "workers.max_failures=1",
            "workers.hang_seconds=6",
            "saving.checkpoint_every_steps=4",  # it waits for the epoch's to be written
            "saving.log_every_steps=1",
        ],
    )
    notes: list[str] = []
    free = job.folder.path / "free"

    def suspend_one_in_the_second_epoch(event: Event) -> None:
        if isinstance(event, Message):
            notes.append(event.text)
        if isinstance(event, StepsReport) and (event.epoch, event.step) == (1, 6):
            if not free.exists():
                _, hung = worker_processes()
                hung.suspend()
            free.touch()

    counts = run_on_workers(train_held_at(1, 6), job, suspend_one_in_the_second_epoch)
    assert counts.images == 899
    ended, again = notes
    told = re.match(
        r"no batch was taken for 6 s; worker [01] is late, after \d+ batches \(the others: "
        r"\d+\), last heard of (\d+) s ago\. All workers are ended",
        ended,
    )
    assert told
    assert int(told[1]) >= 5
    assert again.startswith("goes on after 1 epochs")
    assert not list(job.folder.path.glob("stacks-*"))  # those of the hang make place for the next


def test_a_node_may_stage_for_longer_than_a_worker_may_hang(
    make_job: MakeJob, ray_session: None, tmp_path: Path
) -> None:
    local = tmp_path / "local"
    local.mkdir()
    job = make_job(recipe=["epochs=1"], cluster=["workers.hang_seconds=6", f"stage_to={local}"])
    digest = Store.open(Path(job.cluster.data_dir) / "digits").digest
    with ExitStack() as copying:
        copying.enter_context(file_lock(local / f".digits-{digest[:12]}.lock"))

        def copy_for_long(event: Event) -> None:
            if event == WorkerStarted(0):
                threading.Timer(9, copying.close).start()

        counts = run_on_workers(train, job, copy_for_long)
    assert counts.images == 899


def test_two_jobs_on_one_run_leave_each_other_alone(make_job: MakeJob, ray_session: None) -> None:
    # As evaluations are, which hold no lock.
    job = make_job(cluster=["workers.count=1", "workers.max_failures=1"])

    def meet(job: TrainingJob, worker: Worker, report: Report) -> int:
        with watched(job, worker, report):
            (job.folder.path / f"here-{os.getpid()}").touch()
            while len(list(job.folder.path.glob("here-*"))) < 2:
                time.sleep(0.1)
            return len(list(job.folder.path.glob(".ray-*")))

    with ThreadPoolExecutor(2) as drivers:
        both = [drivers.submit(run_on_workers, meet, job, ignore) for _ in range(2)]
    assert [one.result() for one in both] == [2, 2]


def test_what_a_killed_driver_left_is_removed(workspace: Path) -> None:
    recipe, cluster = (
        load_recipe("smoke", ["epochs=1"]),
        load_cluster("laptop", ["workers.count=0"]),
    )
    stale = cluster.runs_dir / "mine" / ".ray-stale"
    stale.mkdir(parents=True)
    run_training(recipe, "smoke", cluster, "mine", Console(quiet=True))
    assert not stale.exists()


def test_a_rotten_image_is_named(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(cluster=["workers.count=0"])
    rotten = tmp_path / "data"
    shutil.copytree(job.cluster.data_dir, rotten)
    images = job.store().split("train")
    shard = rotten / "digits" / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    start = content.find(images.encoded(137).tobytes())
    assert start > 0
    content[start : start + 40] = bytes(40)
    shard.write_bytes(content)
    cluster = job.cluster.model_copy(update={"data_dir": str(rotten)})
    with pytest.raises(UserError, match=r"train-000000\.tar: digits-0137"):
        run_on_workers(
            train,
            replace(job, cluster=cluster),
            ignore,
        )


def test_ctrl_c_then_the_same_command_goes_on_to_the_end(workspace: Path) -> None:
    command = [str(ILSVRC), "train", "smoke", "--run", "mine", "--set", "epochs=6"]
    environment = {**os.environ, "COLUMNS": "100"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    process = subprocess.Popen(
        command, cwd=workspace, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1/6  val"):
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            break
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert errors.strip().splitlines()[-1].startswith("ilsvrc: stopped as asked, after")
    uri = f"sqlite:///{workspace}/mlflow.db"
    assert [run.status for run in evaluated_runs(uri, "ilsvrc")] == ["KILLED"]
    _await_end_of_children(process.pid)

    done = subprocess.run(
        command, cwd=workspace, env=environment, text=True, capture_output=True, timeout=200,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "goes on after" in done.stdout
    assert "epoch 1/6" not in done.stdout
    assert "899 images" in done.stdout
    (run,) = evaluated_runs(uri, "ilsvrc")
    assert run.status == "FINISHED"
    assert run.tags["eval/val/whole/images"] == "899"


def test_ctrl_c_twice_ends_even_what_hangs(workspace: Path) -> None:
    command = [str(ILSVRC), "train", "smoke", "--run", "mine", "--set", "epochs=60"]
    process = subprocess.Popen(
        command, cwd=workspace, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1/60"):
            break
    hung, _ = [one for one in psutil.process_iter() if _is_worker_of(one, process.pid)]
    hung.suspend()
    os.killpg(process.pid, signal.SIGINT)
    said = "SIGINT: stopping after this step, with a checkpoint; once more stops at once"
    assert any(said in line for line in process.stdout)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert errors.strip().splitlines()[-1].startswith("ilsvrc: interrupted")
    _await_end_of_children(process.pid)


@pytest.mark.parametrize(
    "server", ["gcs_server", pytest.param("raylet/raylet", marks=pytest.mark.slow)]
)
def test_a_killed_server_of_rays_ends_the_command_in_one_line(workspace: Path, server: str) -> None:
    process = subprocess.Popen(
        [str(ILSVRC), "train", "smoke", "--run", "mine", "--set", "epochs=60"], cwd=workspace,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1/60"):
            break
    (killed,) = [
        one for one in psutil.Process(process.pid).children() if server in one.cmdline()[0]
    ]
    killed.kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors == (
        "ilsvrc: Ray is gone: a process of it was killed; the same command goes on from what was "
        "saved\n"
    )
    run_id = RunFolder(workspace / "runs" / "mine").tracking_run_id()
    assert tracked_run(f"sqlite:///{workspace}/mlflow.db", run_id).status == "FAILED"
    _await_end_of_children(process.pid)


def _is_worker_of(process: psutil.Process, group: int) -> bool:
    return _session_of(process) == group and "RayTrainWorker" in " ".join(process.cmdline())


def _await_end_of_children(group: int) -> None:
    """Ray's last processes follow their driver within seconds."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        left = [one for one in psutil.process_iter() if _session_of(one) == group]
        if not left:
            return
        time.sleep(0.2)
    raise AssertionError(f"still there: {left}")


def _session_of(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except OSError:
        return -1
