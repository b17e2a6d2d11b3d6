"""One worker in the command's own process: what Ray's session would have given it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file
from small_jobs import MakeJob, tracked_losses

from pipeline.config.cluster import load_cluster
from pipeline.config.recipe import load_recipe
from pipeline.launch.events import BatchTaken, Event, Heartbeat, Phase, WorkerSpeed, WorkerStarted
from pipeline.launch.ray_train import run_on_workers
from pipeline.launch.training_job import TrainingJob
from pipeline.runtime.distributed import Worker
from pipeline.runtime.errors import WorkerFailedError
from pipeline.tracking.queries import evaluated_runs
from pipeline.trainer.driver import run_training
from pipeline.trainer.worker import train
from pipeline.training.checkpoint import checkpoints

ILSVRC = Path(sys.executable).with_name("ilsvrc")
IMPATIENT = ["workers.count=1", "workers.hang_seconds=1"]
ALONE = ["workers.count=1", "saving.log_every_steps=5"]


def ignore(event: Event) -> None:
    pass


def test_a_worker_computes_and_records_the_same_in_this_process_and_by_ray(
    make_job: MakeJob, ray_session: None
) -> None:
    here = make_job("here", ["epochs=2"], ALONE)
    by_ray = make_job("by-ray", ["epochs=2"], [*ALONE, "workers.max_failures=1"])
    seen: dict[str, list[Event]] = {"here": [], "by-ray": []}
    for job in (here, by_ray):
        run_on_workers(train, job, seen[job.folder.name].append)
    ours, theirs = load_file(here.folder.weights), load_file(by_ray.folder.weights)
    assert ours.keys() == theirs.keys()
    assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)
    assert tracked_losses(here) == tracked_losses(by_ray)
    saved = [[path.name for path in checkpoints(job.folder.checkpoints)] for job in (here, by_ray)]
    assert saved[0] == saved[1]
    of_rays_own = (WorkerStarted, Heartbeat, BatchTaken)  # the last by the clock
    kinds = {
        name: [type(event) for event in events if not isinstance(event, of_rays_own)]
        for name, events in seen.items()
    }
    assert Phase("Ray") in seen["by-ray"]
    assert Phase("Ray") not in seen["here"]
    assert [kind for kind in kinds["by-ray"] if kind is not Phase] == [
        kind for kind in kinds["here"] if kind is not Phase
    ]
    assert WorkerSpeed in kinds["here"]


def test_a_failure_leaves_its_traceback_and_a_debuggers_is_raised_as_it_is(
    make_job: MakeJob,
) -> None:
    def stumble(job: TrainingJob, worker: Worker, report: object) -> None:
        raise ZeroDivisionError("divided by nothing")

    job = make_job("alone", [], ALONE)
    with pytest.raises(WorkerFailedError, match="a worker failed: ZeroDivisionError: divided"):
        run_on_workers(stumble, job, ignore)
    assert "in stumble" in job.folder.errors.read_text()
    with pytest.raises(ZeroDivisionError):
        run_on_workers(stumble, make_job("debugged", [], ["workers.count=0"]), ignore)


WATCHED = """
import sys, time
from pathlib import Path
from rich.console import Console
from pipeline.config.cluster import load_cluster
from pipeline.config.recipe import load_recipe
from pipeline.launch import heartbeat
from pipeline.launch.ray_train import run_on_workers
from pipeline.launch.training_job import TrainingJob, watched
from pipeline.runs.run_folder import RunFolder
from pipeline.trainer import driver

def hang(job, worker, report):
    with watched(job, worker, report):
        time.sleep(600)

def work(job, worker, report):
    with watched(job, worker, report) as watchdog:
        for _ in watchdog.counted(range(60)):
            time.sleep(0.05)
            print("working", flush=True)

heartbeat._MARGIN = 0.5
cluster, recipe = load_cluster("laptop", sys.argv[2:]), load_recipe("smoke")
if sys.argv[1] == "hang":
    driver.train = hang
    driver.run_training(recipe, "smoke", cluster, "mine", Console(force_terminal=True))
run_on_workers(work, TrainingJob(recipe, cluster, RunFolder(Path.cwd()), ""), lambda event: None)
"""


def test_a_hang_ends_the_process_with_its_stacks_and_its_run(
    data_dir: Path, tracking_uri: str, tmp_path: Path
) -> None:
    settings = [*IMPATIENT, f"data_dir={data_dir}", f"tracking.uri={tracking_uri}"]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, "hang", *settings, "tracking.experiment=hangs"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "no batch was taken for 1 s; this process ends, its stacks are in" in done.stdout
    assert done.stdout.rstrip().rpartition("\x1b[?25")[2][0] == "h"  # the cursor is shown again
    assert "in hang" in (tmp_path / "runs" / "mine" / "stacks-of-worker-0.txt").read_text()
    assert [run.status for run in evaluated_runs(tracking_uri, "hangs")] == ["FAILED"]


def test_a_process_that_was_stopped_for_longer_goes_on(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WATCHED, "work", *IMPATIENT],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as stopped:
        assert stopped.stdout is not None
        next(line for line in stopped.stdout if "working" in line)
        stopped.send_signal(signal.SIGSTOP)  # as Ctrl-Z does
        time.sleep(3)
        stopped.send_signal(signal.SIGCONT)
        stopped.stdout.read()
    assert stopped.returncode == 0


def test_a_killed_command_goes_on_and_evaluates_without_ray(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    absent = tmp_path_factory.mktemp("absent")
    (absent / "ray.py").write_text("raise AssertionError('Ray is imported')\n")
    environment = {**os.environ, "PYTHONPATH": str(absent), "COLUMNS": "200"}
    command = [str(ILSVRC), "train", "smoke", "--run", "mine", "--set", "epochs=4"]
    command += ["--set", "cluster.workers.count=1", "--set", "cluster.saving.log_every_steps=1"]
    with subprocess.Popen(
        command, cwd=workspace, env=environment, text=True, stdout=subprocess.PIPE
    ) as killed:
        assert killed.stdout is not None
        for line in killed.stdout:
            if line.startswith("epoch 3/4 step 2/"):
                killed.kill()
                break
    assert killed.returncode == -signal.SIGKILL

    def ilsvrc(*arguments: str) -> str:
        done = subprocess.run(
            arguments, cwd=workspace, env=environment, capture_output=True, text=True, timeout=200,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "goes on after 2 epochs" in ilsvrc(*command)
    undisturbed = load_cluster("laptop", [*ALONE, f"runs_dir={workspace / 'calm'}"])
    run_training(
        load_recipe("smoke", ["epochs=4"]), "smoke", undisturbed, "calm", Console(quiet=True)
    )
    ours, theirs = (
        load_file(workspace / place / "weights.safetensors") for place in ("runs/mine", "calm/calm")
    )
    assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)
    assert "mine: val (whole, 899 images)" in ilsvrc(str(ILSVRC), "evaluate", "mine")
