"""A tracking store that is away at the start: the training goes on, and is recorded once."""

import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.cluster import Cluster, load_cluster
from pipeline.errors import UserError
from pipeline.launch import registering
from pipeline.launch.driver import run_training
from pipeline.recipe import Recipe, load_recipe
from pipeline.tracking.client import connect
from pipeline.tracking.queries import evaluated_runs
from pipeline.tracking.tracker import Tracker

QUIET = Console(quiet=True)
IN_PROCESS = ["workers.count=0", "saving.log_every_steps=1"]


@pytest.fixture
def away(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that does not exist; the tracking store is a file in it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workspace}/away/mlflow.db")
    monkeypatch.setattr(registering, "_SECONDS_BETWEEN_TRIES", 0.1)
    return workspace / "away"


def job() -> tuple[Recipe, Cluster]:
    cluster = load_cluster("laptop", [*IN_PROCESS, "tracking.required=false"])
    return load_recipe("smoke", ["epochs=2"]), cluster


def losses(uri: str) -> list[int]:
    (run,) = evaluated_runs(uri, "ilsvrc")
    assert run.status == "FINISHED"
    assert run.metrics["eval/val/whole/images"] == 899
    assert run.params["recipe.epochs"] == "2"
    return [one.step for one in connect(uri).get_metric_history(run.run_id, "train/loss")]


def test_a_store_that_comes_late_gets_everything_once(away: Path) -> None:
    recipe, cluster = job()

    def come_late() -> None:
        while not (cluster.runs_dir / "mine" / "metrics.jsonl").exists():
            time.sleep(0.01)
        away.mkdir()

    late = threading.Thread(target=come_late, daemon=True)
    late.start()
    console = Console(record=True, width=400)
    outcome = run_training(recipe, "smoke", cluster, "mine", console)
    late.join()
    assert "The training goes on without it; metrics wait in" in console.export_text()
    assert outcome
    assert outcome.counts.images == 899
    assert losses(cluster.tracking.uri) == list(range(1, 31))


def test_a_store_that_stays_away_gets_everything_by_the_same_command(
    away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Tracker.__init__.__kwdefaults__, "seconds_to_close", 0.5)
    recipe, cluster = job()
    console = Console(record=True, width=400)
    outcome = run_training(recipe, "smoke", cluster, "mine", console)
    assert outcome
    assert outcome.folder.tracking_run_id() == ""
    assert "The training goes on without it; metrics wait in" in console.export_text()
    weights = outcome.folder.weights.read_bytes()

    monkeypatch.undo()
    monkeypatch.chdir(away.parent)
    away.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", cluster.tracking.uri)
    again = run_training(recipe, "smoke", cluster, "mine", QUIET)
    assert again
    assert again.counts == outcome.counts
    assert again.folder.weights.read_bytes() == weights
    assert losses(cluster.tracking.uri) == list(range(1, 31))


def test_a_store_that_is_required_stops_the_command(away: Path) -> None:
    cluster = load_cluster("laptop", IN_PROCESS)
    with pytest.raises(UserError, match=r"tracking store .*mlflow\.db can't be written"):
        run_training(job()[0], "smoke", cluster, "mine", QUIET)
    assert not cluster.runs_dir.joinpath("mine").exists()
