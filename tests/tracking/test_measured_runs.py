"""What results of tracked runs know of their trainings: settings, and how many classes."""

from datetime import UTC, datetime

from pipeline.tracking.measured_runs import measured_from_runs
from pipeline.tracking.queries import TrackedRun

METRICS = {"top1_error": 20.0, "top1_hits": 8, "images": 10}
PARAMS = {"recipe.network.name": "lenet5_modern", "recipe.seed": "3", "recipe.epochs": "5"}


def tracked(run_id: str, params: dict[str, str], parent: str = "", **metrics: float) -> TrackedRun:
    tags = {"dataset.name": "three", "evaluation.run": "mine"}
    if parent:
        tags["mlflow.parentRunId"] = parent
    protocol = "ten-crop-40-32" if parent else "whole"
    values = {f"eval/val/{protocol}/{key}": value for key, value in {**METRICS, **metrics}.items()}
    day = datetime(2026, 1, 2, tzinfo=UTC)
    return TrackedRun(run_id, run_id, "FINISHED", day, params, tags, values)


def test_of_five_classes_or_fewer_no_top5_is_tracked_and_the_result_is_whole() -> None:
    few = tracked("f00", {**PARAMS, "recipe.network.num_classes": "3"})
    many = tracked("f01", {**PARAMS, "recipe.network.num_classes": "6"})
    (result,) = measured_from_runs([few, many])  # of six classes, something is missing
    assert (result.counts.top1_hits, result.counts.top5_hits, result.counts.images) == (8, 10, 10)
    assert [error.name for error in result.errors] == ["top-1"]


def test_an_evaluation_has_the_classes_and_settings_of_its_training() -> None:
    training = tracked("f00", {**PARAMS, "recipe.network.num_classes": "3"})
    evaluation = tracked("f01", {"recipe.network.name": "lenet5_modern"}, parent="f00")
    evaluated, trained = measured_from_runs([evaluation, training])
    assert evaluated.key.protocol == "ten-crop-40-32"
    assert [error.name for error in evaluated.errors] == ["top-1"]
    assert evaluated.settings == trained.settings
    assert (trained.settings["seed"], trained.settings["epochs"]) == ("3", "5")


def test_an_evaluation_of_some_classes_counts_those_that_it_guesses_among() -> None:
    params = {"recipe.network.name": "resnet50", "evaluation.num_classes": "4"}
    (result,) = measured_from_runs([tracked("f00", params)])
    assert (result.num_classes, result.settings) == (4, {})
