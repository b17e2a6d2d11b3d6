"""The page's tables of results: one axis for a data set, split and protocol; seeds grouped."""

import re
from datetime import UTC, datetime

import pytest

from pipeline.evaluation.metrics import Counts
from pipeline.reports.learning_curves import MetricHistory
from pipeline.reports.page import build_page
from pipeline.reports.page_data import ReportedRun
from pipeline.reports.result_rows import differences, result_panels, run_labels
from pipeline.results.measured import Measured
from pipeline.results.published import ResultKey
from pipeline.tracking.measured_runs import images_tag, measured_from_runs
from pipeline.tracking.queries import TrackedRun

DAY = datetime(2026, 1, 2, tzinfo=UTC)
SCHEDULE = {"recipe.schedule.kind": "step", "recipe.schedule.epochs": "[2]"}


def run(
    name: str, errors: int, *, data: str = "digits", classes: int = 10, **params: str
) -> ReportedRun:
    """Return a training with so many errors in 899 images; its parameters as MLflow has them."""
    known = {
        "recipe.network.name": "lenet5_modern",
        "recipe.network.num_classes": str(classes),
        "recipe.input.color": "gray",
        "recipe.input.size": "32",
        "recipe.input.dimensions": "2",
        "recipe.seed": "0",
        "recipe.optimizer.learning_rate": "0.05",
        "recipe.schedule.kind": "cosine",
        **params,
    }
    metrics = Counts(899 - errors, 899, 899).metrics(classes)
    tracked = TrackedRun(
        name, name, "FINISHED", DAY, known,
        {"mlflow.runName": name, "dataset.name": data, **images_tag("val", "whole", 899)},
        {f"eval/val/whole/{metric}": value for metric, value in metrics.items()},
    )  # fmt: skip
    return ReportedRun(MetricHistory(tracked, {}, 0), measured_from_runs([tracked]))


ERRORS = (22, 24, 11)
SEEDS = [run(f"seed-{n}", errors, **{"recipe.seed": str(n)}) for n, errors in enumerate(ERRORS)]
SLOW = run("slow", 96, **{"recipe.optimizer.learning_rate": "0.01"})


def center(bar: str) -> float:
    found = re.search(r'<circle cx="([\d.]+)"|<rect x="([\d.]+)"|<path d="M([\d.]+) 3l', bar)
    assert found is not None
    return next(float(place) for place in found.groups() if place)


def test_all_results_of_a_data_set_and_published_ones_share_the_axis() -> None:
    (panel,) = result_panels([SLOW, *SEEDS])
    axis = panel.axes["top-1"]
    assert axis.ticks[0] <= 0.7
    assert axis.ticks[-1] >= 12.9  # the ends of the intervals of 1.22 and 10.68 %
    bars = {row.run.name if row.run else row.other.network: row.errors[0] for row in panel.rows[1:]}
    for name, error in (("seed-0", 2.447), ("slow", 10.679), ("SVC (γ = 0.001)", 3.11)):
        assert center(bars[name].bar) == pytest.approx(axis.x(error), abs=0.1)
    assert bars["slow"].value == "10.68"


def test_the_mean_of_seeds_stands_above_them_and_the_lowest_error_first() -> None:
    (panel,) = result_panels([SLOW, *SEEDS])
    mean, *seeds, slow = [row for row in panel.rows if row.other is None]
    assert (mean.mean_of, mean.errors[0].value, mean.errors[0].spread) == (
        "3 seeds", "2.11", "± 0.78",
    )  # fmt: skip
    assert [row.run.name for row in seeds] == ["seed-0", "seed-1", "seed-2"]
    assert all(row.is_of_mean for row in seeds)
    assert slow.run.name == "slow"
    assert not slow.is_of_mean
    assert [row.other.top1_error for row in panel.rows if row.other] == sorted(
        row.other.top1_error for row in panel.rows if row.other
    )


def test_only_what_differs_has_a_column() -> None:
    (panel,) = result_panels([SLOW, *SEEDS])
    assert list(panel.group.shown_settings.values()) == ["learning rate"]
    assert panel.group.has_seeds
    mean, *_, slow = [row for row in panel.rows if row.other is None]
    assert (mean.settings, slow.settings) == (["0.05"], ["0.01"])
    assert (mean.words, slow.words) == ("learning rate 0.05", "learning rate 0.01, seed 0")
    assert [row.words for row in panel.rows if row.is_of_mean] == ["seed 0", "seed 1", "seed 2"]
    (alone,) = result_panels([SLOW])
    assert not alone.group.shown_settings
    assert not alone.group.has_seeds
    assert run_labels([SLOW, SEEDS[1]]) == {
        "slow": "learning rate 0.01, seed 0", "seed-1": "learning rate 0.05, seed 1",
    }  # fmt: skip


def test_settings_that_only_some_have_are_in_the_list_of_all() -> None:
    stepped = run("stepped", 30, **SCHEDULE)
    runs = [stepped, *SEEDS]
    found = differences(runs, result_panels(runs))
    assert found.trainings == ["stepped", "seed-0 and 2 more"]
    assert found.rows == {"schedule.epochs": ["[2]", "–"], "schedule.kind": ["step", "cosine"]}
    runs = [SLOW, *SEEDS]
    assert differences(runs, result_panels(runs)) is None  # the column has it all


def test_of_five_classes_or_fewer_there_is_no_column_of_top5() -> None:
    three = run("three", 30, data="three", classes=3)
    digits, few = result_panels([three, *SEEDS])
    assert list(digits.axes) == ["top-1", "top-5"]
    assert list(few.axes) == ["top-1"]
    html = build_page("mine", [three]).html
    results = html[html.index('id="results"') : html.index('id="lecture"')]
    assert "Top-5" not in results
    assert "Top-1" in results


def test_that_nothing_is_published_of_a_network_is_said_once() -> None:
    html = build_page("mine", [SLOW, *SEEDS]).html
    assert html.count("none for this network") == 1
    assert html.count("SVC (γ = 0.001)") == 1


def test_a_source_of_several_results_is_said_once() -> None:
    key = ResultKey("resnet18", "ilsvrc2012", "val", "center-256-224")
    runs = []
    for name in ("one", "other"):
        tracked = TrackedRun(name, name, "FINISHED", DAY, {}, {}, {})
        result = Measured(key, Counts(34_850, 44_400, 50_000), name)
        runs.append(ReportedRun(MetricHistory(tracked, {}, 0), [result]))
    (panel,) = result_panels(runs)
    assert [row.note for row in panel.rows] == ["fb.resnet.torch", "source as above"]
    # Each bar has the published error, of the same key, on the same axis.
    for row in panel.rows:
        assert f"M{panel.axes['top-1'].x(30.43):.1f} 3l" in row.errors[0].bar
