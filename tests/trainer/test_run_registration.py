"""Without the tracking store at the start, the training runs and is recorded once, later."""

import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.config.cluster import Cluster, load_cluster
from pipeline.config.recipe import Recipe, load_recipe
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.errors import UserError
from pipeline.tracking.mlflow_client import connect
from pipeline.tracking.queries import evaluated_runs
from pipeline.tracking.tracker import Tracker
from pipeline.trainer import run_registration
from pipeline.trainer.driver import run_training

QUIET = Console(quiet=True)
IN_PROCESS = ["workers.count=0", "saving.log_every_steps=1"]


@pytest.fixture
def away(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that does not exist; the tracking store is a file in it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workspace}/away/mlflow.db")
    monkeypatch.setattr(run_registration, "_SECONDS_BETWEEN_TRIES", 0.1)
    return workspace / "away"


def job() -> tuple[Recipe, Cluster]:
    cluster = load_cluster("laptop", [*IN_PROCESS, "tracking.required=false"])
    return load_recipe("smoke", ["epochs=2"]), cluster


def losses(uri: str) -> list[int]:
    (run,) = evaluated_runs(uri, "ilsvrc")
    assert run.status == "FINISHED"
    # Curves by epochs and by images, but none of counts that never change.
    assert run.tags["eval/val/whole/images"] == "899"
    whole = "eval/val/whole"
    of_evaluations = {name for name in run.metrics if name.startswith("eval/")}
    assert of_evaluations == {
        f"{whole}/{name}"
        for name in ("loss", "top1_error", "top5_error", "trained_epochs", "trained_images")
    }
    assert run.metrics["train/images"] == run.metrics[f"{whole}/trained_images"] == 2 * 898
    assert run.metrics["train/epochs"] == run.metrics[f"{whole}/trained_epochs"] == 2
    assert run.params["recipe.epochs"] == "2"
    return [one.step for one in connect(uri).get_metric_history(run.run_id, "train/loss")]


def test_a_store_that_is_late_gets_every_metric_once(away: Path) -> None:
    recipe, cluster = job()

    def come_late() -> None:
        while not (cluster.runs_dir / "mine" / "metrics.jsonl").exists():
            time.sleep(0.01)
        away.mkdir()

    late = threading.Thread(target=come_late, daemon=True)
    late.start()
    console = Console(record=True, width=400)
    result = run_training(recipe, "smoke", cluster, "mine", console)
    late.join()
    assert "The training goes on without it; metrics wait in" in console.export_text()
    assert result
    assert result.counts.images == 899
    assert losses(cluster.tracking.uri) == list(range(1, 31))


def test_running_the_command_again_delivers_to_a_store_that_was_away(
    away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Tracker.__init__.__kwdefaults__, "seconds_to_close", 0.5)
    recipe, cluster = job()
    console = Console(record=True, width=400)
    result = run_training(recipe, "smoke", cluster, "mine", console)
    assert result
    assert result.folder.tracking_run_id() == ""
    assert "The training goes on without it; metrics wait in" in console.export_text()
    weights = result.folder.weights.read_bytes()

    monkeypatch.undo()
    monkeypatch.chdir(away.parent)
    away.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", cluster.tracking.uri)
    again = run_training(recipe, "smoke", cluster, "mine", QUIET)
    assert again
    assert again.counts == result.counts
    assert again.folder.weights.read_bytes() == weights
    assert losses(cluster.tracking.uri) == list(range(1, 31))


def test_a_missing_store_that_is_required_is_an_error(away: Path) -> None:
    cluster = load_cluster("laptop", IN_PROCESS)
    with pytest.raises(UserError, match=r"tracking store .*mlflow\.db can't be written"):
        run_training(job()[0], "smoke", cluster, "mine", QUIET)
    assert not cluster.runs_dir.joinpath("mine").exists()


def test_a_run_that_another_command_trains_is_refused(workspace: Path) -> None:
    cluster = load_cluster("laptop", IN_PROCESS)
    folder = RunFolder(cluster.runs_dir / "mine")
    folder.path.mkdir(parents=True)
    with (
        folder.held(),
        pytest.raises(UserError, match="run 'mine' is being trained by another process; wait"),
    ):
        run_training(job()[0], "smoke", cluster, "mine", QUIET)
    assert [path.name for path in folder.path.iterdir()] == [".lock"]
