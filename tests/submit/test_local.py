"""Jobs on this machine, as the runs' folders and the tracking store show them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.config.cluster import load_cluster
from pipeline.config.recipe import load_recipe
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.errors import UserError
from pipeline.submit.local import LocalRuns
from pipeline.submit.submit import find_job
from pipeline.tracking.queries import training_progress
from pipeline.trainer.driver import run_training

ILSVRC = Path(sys.executable).with_name("ilsvrc")


def test_a_training_submitted_here_is_listed_and_can_be_stopped(workspace: Path) -> None:
    command = [str(ILSVRC), "submit", "smoke", "--on", "laptop", "--seeds", "3"]
    command += ["--set", "epochs=600", "--set", "cluster.workers.count=0"]
    environment = {**os.environ, "COLUMNS": "200"}
    process = subprocess.Popen(
        command, cwd=workspace, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 2/600"):
            break
    cluster = load_cluster("laptop")
    runs, tracking = LocalRuns(cluster), cluster.tracking
    (job,) = runs.jobs()
    assert job.state == "running"
    _await_two_epochs(tracking.uri, job.run)
    known = training_progress(tracking.uri, tracking.experiment, {job.run})[job.run]
    assert 1 <= known.epochs_done < known.epochs == 600
    assert known.images_per_second
    assert known.seconds_left
    assert known.top5_error is not None

    assert "saves after this step" in runs.stop(find_job(runs, job.run))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert find_job(runs, job.run).state == "stopped"


def test_a_new_attempt_removes_the_errors_of_the_last_one(
    workspace: Path, tracking_uri: str
) -> None:
    cluster = load_cluster("laptop", ["workers.count=0", f"tracking.uri={tracking_uri}"])
    folder = RunFolder(cluster.runs_dir / "mine")
    folder.path.mkdir(parents=True)
    folder.errors.write_text("a worker failed")
    recipe = load_recipe("smoke", ["epochs=1"])
    assert run_training(recipe, "smoke", cluster, folder.name, Console(quiet=True))
    assert not folder.errors.exists()
    runs = LocalRuns(cluster)
    with pytest.raises(UserError, match="'mine' isn't being trained, it is finished already"):
        runs.stop(find_job(runs, "mine"))
    assert not folder.stop_request.exists()


def _await_two_epochs(uri: str, run: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        known = training_progress(uri, "ilsvrc", {run}).get(run)
        if known and known.epochs_done >= 1 and known.seconds_left:
            return
        time.sleep(0.2)
    raise AssertionError("the store has no two epochs")
