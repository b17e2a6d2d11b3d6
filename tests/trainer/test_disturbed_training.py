"""A clock that jumps, a store that is deleted, while a training runs: its result is the same."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.config.cluster import Cluster, load_cluster
from pipeline.config.recipe import load_recipe
from pipeline.launch.events import Event, StepsReport
from pipeline.runs.run_folder import RunFolder
from pipeline.tracking.mlflow_client import connect
from pipeline.tracking.queries import evaluated_runs
from pipeline.trainer.driver import conclude, run_training

ILSVRC = str(Path(sys.executable).with_name("ilsvrc"))
HOUR = 3600


def cluster_in(folder: Path, data_dir: Path) -> Cluster:
    settings = [
        f"data_dir={data_dir}", f"runs_dir={folder}", "workers.count=1", "workers.hang_seconds=60",
        "saving.log_every_steps=1", f"tracking.uri=sqlite:///{folder}/mlflow.db",
    ]  # fmt: skip
    return load_cluster("laptop", settings)


def train(folder: Path, data_dir: Path, at: Callable[[int], None] = lambda step: None) -> Cluster:
    """Train for two epochs, and conclude; `at` is called after each step."""
    cluster = cluster_in(folder, data_dir)

    def on_event(event: Event) -> None:
        if isinstance(event, StepsReport):
            at(event.epoch * event.num_steps + event.step)

    result = run_training(
        load_recipe("smoke", ["epochs=2"]), "smoke", cluster, "run", Console(), on_event=on_event
    )
    assert result
    if result.is_delivered:
        conclude(result, cluster.tracking.uri, [], "the result\n")
    return cluster


@pytest.fixture(scope="module")
def calm(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calm")
    train(folder, data_dir)
    return folder


def test_a_clock_that_jumps_changes_nothing(
    calm: Path,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    true_time, true_time_ns, shift = time.time, time.time_ns, 0
    monkeypatch.setattr(time, "time", lambda: true_time() + shift)
    monkeypatch.setattr(time, "time_ns", lambda: true_time_ns() + shift * 10**9)

    def jump(step: int) -> None:
        nonlocal shift
        shift = {5: HOUR, 10: -HOUR, 20: 0}.get(step, shift)

    cluster = train(tmp_path, data_dir, jump)
    printed = capsys.readouterr().out
    assert "no batch was taken" not in printed
    assert "time left 0:00:" in printed
    check_the_same(cluster, calm)


@pytest.mark.slow
def test_a_tracking_store_that_is_deleted_is_made_again(
    calm: Path, data_dir: Path, tmp_path: Path
) -> None:
    cluster, store = cluster_in(tmp_path, data_dir), tmp_path / "mlflow.db"
    settings = [
        "epochs=2", f"cluster.tracking.uri=sqlite:///{store}", "cluster.saving.log_every_steps=1",
        f"cluster.data_dir={data_dir}", f"cluster.runs_dir={tmp_path}", "cluster.workers.count=1",
    ]  # fmt: skip
    command = [ILSVRC, "train", "smoke", "--run", "run"]
    command += [word for setting in settings for word in ("--set", setting)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        for line in training.stdout:
            if line.startswith("epoch 1/2 step 5/15"):
                store.unlink()
                break
        said = " ".join(training.stdout.read().split())
    assert training.returncode == 0
    assert f"tracking store sqlite:///{store} was deleted. All metrics are in" in said
    assert "The training is complete" in said
    subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    check_the_same(cluster, calm)


@pytest.mark.slow
def test_two_workers_train_with_few_files_and_little_shared_memory(workspace: Path) -> None:
    """As in a container, whose /dev/shm has 64 MB unless one says otherwise."""
    mount = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], check=False).returncode:
        pytest.skip("needs the right to mount a small /dev/shm")
    train = f"{ILSVRC} train smoke --set epochs=1"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{mount} && ulimit -n 256 && exec {train}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "899 images" in done.stdout


def check_the_same(cluster: Cluster, calm: Path) -> None:
    """The run has the weights of the undisturbed one, and each of its losses once."""
    folder = RunFolder(cluster.runs_dir / "run")
    assert folder.weights.read_bytes() == RunFolder(calm / "run").weights.read_bytes()
    histories = []
    for uri in (cluster.tracking.uri, f"sqlite:///{calm}/mlflow.db"):
        (run,) = evaluated_runs(uri, "ilsvrc")
        assert run.status == "FINISHED"
        history = connect(uri).get_metric_history(run.run_id, "train/loss")
        histories.append([(metric.step, metric.value) for metric in history])
    ours, theirs = histories
    assert ours == theirs
