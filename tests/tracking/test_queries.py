from functools import partial
from pathlib import Path

import pytest

from pipeline.runtime.errors import UserError
from pipeline.tracking.mlflow_runs import finish_run, start_run
from pipeline.tracking.queries import (
    Point,
    evaluated_runs,
    histories,
    named_runs,
    training_progress,
)
from pipeline.tracking.tracker import Tracker


def test_runs_come_newest_first_with_their_last_metrics(store: str, tmp_path: Path) -> None:
    for name in ("first", "second"):
        run_id = start_run(store, "ours", run_name=name, params={"seed": 1}, tags={"name": name})
        (tmp_path / name).mkdir()
        tracker = Tracker(
            store, partial(str, run_id), tmp_path / name, seconds_between_batches=0.01
        )
        for step in range(3):
            tracker.log({"eval/top1_error": 30 - step}, step)
        tracker.close()
        finish_run(store, run_id, "FINISHED")
    start_run(store, "theirs", run_name="other", params={}, tags={})
    runs = evaluated_runs(store, "ours")
    assert [run.name for run in runs] == ["second", "first"]
    assert runs[0].started >= runs[1].started
    newest = runs[0]
    assert newest.run_id == run_id
    assert newest.status == "FINISHED"
    assert newest.params["seed"] == "1"
    assert newest.tags["name"] == "second"
    assert newest.metrics == {"eval/top1_error": 28.0}


def test_an_unknown_experiment_raises_an_error_with_the_known_ones(store: str, run_id: str) -> None:
    with pytest.raises(UserError, match=r"no experiment 'mine' .* there are: Default, ours"):
        evaluated_runs(store, "mine")


def test_querying_a_store_that_does_not_exist_makes_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="doesn't exist: train a network first"):
        evaluated_runs(f"sqlite:///{tmp_path / 'mlflow.db'}", "ours")
    assert not list(tmp_path.iterdir())


def test_runs_are_selected_by_name_with_their_evaluations(store: str, run_id: str) -> None:
    parent = {"mlflow.parentRunId": run_id}
    start_run(store, "ours", run_name="first val", params={}, tags=parent)
    start_run(store, "ours", run_name="second", params={}, tags={})
    runs = evaluated_runs(store, "ours")
    assert len(named_runs(runs, None)) == 3
    assert {run.name for run in named_runs(runs, ["first"])} == {"first", "first val"}
    with pytest.raises(UserError, match="no run 'third' in the experiment; there are: first, "):
        named_runs(runs, ["first", "third"])


def test_progress_is_found_whatever_characters_a_name_has(store: str) -> None:
    names = ("Bob's net", "Bob-s net")
    made = {
        name: start_run(store, "ours", run_name=name, params={"recipe.epochs": 3}, tags={})
        for name in names
    }
    known = training_progress(store, "ours", {*names, "unknown"})
    assert {name: progress.run_id for name, progress in known.items()} == made


def test_a_metrics_whole_history_is_in_order_of_its_steps(
    store: str, run_id: str, tmp_path: Path
) -> None:
    tracker = Tracker(store, lambda: run_id, tmp_path, seconds_between_batches=0.01)
    for step in range(3):
        tracker.log({"train/loss": 3.0 - step}, step)
    tracker.close()
    (run,) = evaluated_runs(store, "ours")
    found = histories(store, run, ["train/loss", "train/nothing"])
    assert found == {"train/loss": [Point(0, 3.0), Point(1, 2.0), Point(2, 1.0)]}
