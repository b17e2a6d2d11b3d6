import io
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from PIL import Image

from pipeline.evaluation.metrics import Counts
from pipeline.models.zoo import NETWORKS
from pipeline.reports.accuracy_vs_operations import (
    is_on_one_line,
    measured_marker,
    model_size,
    operations_figure,
    operations_words,
    published_markers,
)
from pipeline.reports.figure_style import LIGHT, as_png, as_svg, picture_figure, svg_element
from pipeline.reports.learning_curves import (
    MetricHistory,
    curve_figures,
    curve_words,
    source_of,
    thinned,
)
from pipeline.reports.run_cost import run_cost, training_seconds
from pipeline.results.measured import Measured
from pipeline.results.published import ResultKey
from pipeline.tracking.queries import Point, TrackedRun

STEPS, EPOCHS, BATCH = 10, 4, 64


def history(
    device: str = "gpu", workers: int = 8, images_per_second: float = 640.0
) -> MetricHistory:
    params = {
        "recipe.batch.global_batch_size": str(BATCH),
        "cluster.workers.count": str(workers),
        "recipe.epochs": str(EPOCHS),
    }
    run = TrackedRun(
        "f00", "a-run", "FINISHED", datetime(2026, 1, 2, tzinfo=UTC), params, {"device": device}, {}
    )
    reports = range(5, STEPS * EPOCHS + 1, 5)
    ends = range(STEPS, STEPS * EPOCHS + 1, STEPS)
    metrics = {
        "train/loss": [Point(step, 1 / step) for step in reports],
        "train/top1_error": [Point(step, 90.0 / step) for step in reports],
        "train/images_per_second": [Point(step, images_per_second) for step in reports],
        "eval/val/whole/top1_error": [Point(step, 80.0 - step) for step in ends],
    }
    return MetricHistory(run, metrics, colour=1)


def test_each_panel_with_points_is_drawn_over_epochs() -> None:
    figures = curve_figures([history(), history()])
    assert list(figures) == ["Loss", "Top-1 error, %"]
    (axes,) = figures["Top-1 error, %"].axes
    assert axes.get_xlabel() == "epochs"
    assert len(axes.lines) == 4  # training and testing of two runs
    test = axes.lines[1]
    assert list(test.get_xdata()) == [1, 2, 3, 4]
    assert list(test.get_ydata()) == [70.0, 60.0, 50.0, 40.0]
    assert test.get_linewidth() > axes.lines[0].get_linewidth()
    assert curve_figures([]) == {}


def test_a_run_before_its_first_epoch_is_drawn_over_steps() -> None:
    early = history()
    early = MetricHistory(early.run, {"train/loss": early.metrics["train/loss"][:3]}, 0)
    (axes,) = curve_figures([early])["Loss"].axes
    assert axes.get_xlabel() == "steps"


def curve(values: Sequence[float], name: str = "train/loss", **params: str) -> MetricHistory:
    run = TrackedRun("f00", "r", "FINISHED", datetime(2026, 1, 2, tzinfo=UTC), params, {}, {})
    return MetricHistory(run, {name: [Point(5 * n, v) for n, v in enumerate(values, 1)]}, 0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.1], "0.1"),
        ([0.1, 0.1], "0.1 throughout"),
        ([0.1] * 5, "0.1 throughout"),
        ([1 / 3] * 3, "0.3333 throughout"),
        ([2.5, 0.5], "2.5 → 0.5"),
        ([0.4, 0.3, 0.2, 0.1], "0.4 → 0.1, in a straight line"),
    ],
)
def test_points_on_one_line_are_said_in_words(values: Sequence[float], words: str) -> None:
    alone = curve(values)
    assert curve_figures([alone]) == {}
    assert curve_words([alone]) == {"Loss": {words: [alone]}}
    # Beside a curve it is drawn with it.
    both = [alone, curve([3.0, 2.0, 1.5])]
    assert list(curve_figures(both)) == ["Loss"]
    assert curve_words(both) == {}


def test_words_name_training_and_test_and_runs_with_the_same_words_once() -> None:
    constant = history()
    assert curve_words([constant, constant]) == {
        "Images/s": {"640 throughout": [constant, constant]}
    }
    name = "eval/val/whole/loss"
    metrics = {"train/loss": [Point(5, 2.0), Point(10, 1.0)], name: [Point(10, 1.5)]}
    short = MetricHistory(constant.run, metrics, 0)
    assert list(curve_words([short])["Loss"]) == ["training 2 → 1, test 1.5"]


def test_of_five_classes_or_fewer_no_top5_error_is_drawn() -> None:
    values = [50.0, 20.0, 15.0]
    for classes, is_drawn in (("6", True), ("5", False)):
        params = {"recipe.network.num_classes": classes}
        few = curve(values, "train/top5_error", **params)
        assert list(curve_figures([few])) == ["Top-5 error, %"] * is_drawn
    assert curve_words([curve([0.0, 0.0], "train/top5_error", **params)]) == {}


def test_every_picture_says_its_data_protocol_and_date() -> None:
    known = history()
    tagged = replace(known, run=replace(known.run, tags={"dataset.name": "digits"}))
    for figure in curve_figures([tagged, tagged]).values():
        assert figure.get_supxlabel() == "digits val, whole; 2026-01-02"
    later = replace(known.run, started=datetime(2026, 2, 3, tzinfo=UTC))
    others = [
        replace(known, run=replace(later, tags={"dataset.name": name})) for name in ("a", "b", "c")
    ]
    assert source_of([tagged, *others]) == (
        "digits val, whole; a val, whole; 2 more; 2026-01-02 to 2026-02-03"
    )


def test_markers_of_two_networks_or_fewer_are_said_in_words() -> None:
    markers = published_markers()
    assert not is_on_one_line(markers)
    by_name = {marker.name: marker for marker in markers}
    two = [by_name["resnet18"], by_name["vgg16"]]
    assert is_on_one_line(two)
    better = replace(by_name["resnet18"], accuracy=75.0)
    assert operations_words([*two, better]) == [
        "3,628 M-Ops, 11,689,512 parameters: accuracy 69.57 to 75.00 % in 2 results",
        "30,941 M-Ops, 138,357,544 parameters: accuracy 71.50 % in 1 result",
    ]
    assert is_on_one_line([*two, better])
    assert not is_on_one_line([*two, by_name["resnet50"]])


def test_a_network_of_five_classes_or_fewer_has_a_marker() -> None:
    key = ResultKey("lenet5_modern", "three", "val", "whole")
    few = Measured(key, Counts(200, 250, 250), run="mine", num_classes=3)
    assert measured_marker(few, model_size("resnet18"), 0).accuracy == pytest.approx(80)


def test_long_curves_are_drawn_as_means() -> None:
    points = [Point(step, float(step)) for step in range(1, 1001)]
    few = thinned(points, 10)
    assert [point.step for point in few] == list(range(100, 1001, 100))
    assert few[0].value == pytest.approx(50.5)
    assert thinned(points[:10], 10) == points[:10]


def test_cost_is_the_time_of_the_steps_times_the_workers() -> None:
    # 40 steps of 64 images at 640 images/s: 4 s, on 8 workers.
    cost = run_cost(history())
    assert cost.worker_hours == pytest.approx(8 * 4 / 3600)
    assert cost.words == "32 GPU-seconds"
    assert cost.words_per_epoch == "8 GPU-seconds"
    slow = run_cost(history("cpu", 0, 0.064))
    assert slow.words == "11.1 CPU-worker-hours"
    assert training_seconds([Point(5, 10.0), Point(10, 20.0)], 10) == 5 + 2.5
    assert run_cost(MetricHistory(history().run, {}, 0)) is None


def test_operations_and_parameters_are_the_published_ones() -> None:
    size = model_size("alexnet")
    assert (size.operations, size.parameters) == (2 * 724_406_816, 60_965_224)
    assert model_size("lenet5_modern").parameters == 61_706 + 990 * 85  # of 1,000 classes
    small = model_size("lenet5_modern", 10, (1, 32, 32))
    assert (small.operations, small.parameters) == (2 * 416_520, 61_706)


def test_published_results_of_one_view_are_grey_and_ours_are_coloured() -> None:
    markers = published_markers()
    by_name = {marker.name: marker for marker in markers}
    assert by_name["alexnet_caffe"].accuracy == pytest.approx(57.1)
    assert by_name["googlenet"].accuracy == pytest.approx(68.7)  # the paper gives no top-1 error
    assert "resnet152" in by_name
    assert {marker.colour for marker in markers} == {None}
    assert by_name.keys() <= NETWORKS.keys()
    key = ResultKey("resnet18", "ilsvrc2012", "val", "center-256-224")
    ours = measured_marker(
        Measured(key, Counts(34_850, 44_400, 50_000), run="mine"), model_size("resnet18"), 2
    )
    assert (ours.accuracy, ours.colour) == (pytest.approx(69.7), 2)
    assert 0.3 < ours.above < 0.5
    svg, again = (
        as_svg(operations_figure([*markers, ours], "ilsvrc2012 val", "2026-01-02"))
        for _ in range(2)
    )
    assert svg == again
    source = r">center-256-224, [^<]* more; grey: published; ours: 2026-01-02</text>"
    assert re.search(source, svg.decode())
    assert "ours" not in operations_figure(markers, "ilsvrc2012 val", "2026-01-02").get_supxlabel()
    for name in ("mine", "vgg19", "resnet152", "densenet201"):
        assert f">{name}</text>" in svg.decode()


def test_figures_have_the_same_bytes_again_and_the_pages_colours() -> None:
    first, again = (curve_figures([history()])["Loss"] for _ in range(2))
    assert as_svg(first) == as_svg(again)
    assert as_png(first).startswith(b"\x89PNG")
    element = svg_element(as_svg(first))
    assert element.startswith("<svg")
    assert " width=" not in element.partition(">")[0]
    for colour in LIGHT.values():
        assert colour not in element
    assert "var(--series-1)" in element
    assert set(re.findall(r"#[0-9a-f]{6}", element)) <= set()


def test_a_picture_in_a_file_says_what_it_is_of() -> None:
    png = io.BytesIO()
    Image.new("L", (30, 20)).save(png, "PNG")
    figure = picture_figure(png.getvalue(), "Filters, 6 of 5×5×1", "digits val, whole; 2026-01-02")
    assert figure.get_supxlabel() == "digits val, whole; 2026-01-02"
    assert [axes.get_title() or axes.get_title("left") for axes in figure.axes] == [
        "Filters, 6 of 5×5×1"
    ]
