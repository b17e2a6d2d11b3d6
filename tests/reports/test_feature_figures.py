from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from trained_runs import visualized_start

from pipeline.config.recipe import load_recipe
from pipeline.reports.feature_figures import feature_figure, filters_figure, picture_name
from pipeline.visualization.pictures import CoveredImages, LayerUnits, VisualizedModel, look


@pytest.fixture
def visualized(data_dir: Path) -> VisualizedModel:
    return visualized_start(load_recipe("smoke"), data_dir)


def words(figure: Figure) -> str:
    return f"{figure.get_suptitle()}\n{figure.get_supxlabel()}"


@pytest.mark.parametrize(
    ("what", "name", "bar"),
    [
        ("filters", "filters", "weight"),
        ("activations", "activations-layers.3", None),
        ("deconvnet", "deconvnet-layers.3", "projection"),
        ("occlusion", "occlusion", "probability"),
    ],
)
def test_a_figure_says_whose_it_is_and_what_its_colours_are(
    visualized: VisualizedModel, what: str, name: str, bar: str | None
) -> None:
    layer = "layers.3" if what in ("activations", "deconvnet") else None
    found = look(visualized, what, layer, num_images=2)
    assert picture_name(what, found) == name
    figure = feature_figure(visualized, found)
    assert "mine: lenet5_modern, trained on digits train, 3 epochs, 2026-11-29" in words(figure)
    if what != "filters":
        assert "digits val (899), the whole image" in words(figure)
    labels = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]
    assert [label.split()[0].strip(",") for label in labels] == ([bar] if bar else [])
    figure.draw_without_rendering()
    inner = [axes.get_tightbbox() for axes in figure.axes if axes.get_images()]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in inner if box)


def test_the_frame_is_where_the_probability_is_lowest(visualized: VisualizedModel) -> None:
    found = look(visualized, "occlusion", num_images=1)
    assert isinstance(found, CoveredImages)
    (image,) = found.images
    figure = feature_figure(visualized, found)
    (frame,) = figure.axes[0].patches
    x, y = (image.occlusion.starts.index(start) for start in frame.get_xy())
    assert image.occlusion.probabilities[y, x] == image.occlusion.probabilities.min()
    # The map's cell of this place lies at the frame's centre.
    (shown,) = figure.axes[1].get_images()
    left, right, bottom, top = shown.get_extent()
    centre = np.add(frame.get_xy(), image.occlusion.side / 2)
    assert left + (x + 0.5) * (right - left) / 12 == pytest.approx(centre[0], abs=0.6)
    assert top + (y + 0.5) * (bottom - top) / 12 == pytest.approx(centre[1], abs=0.6)


def test_colours_of_three_channels_have_no_bar() -> None:
    figure = filters_figure(torch.randn(4, 3, 7, 7), "somewhere")
    assert len(figure.axes) == 1
    assert "The 4 filters of the first layer, 7×7×3" in words(figure)
    assert "somewhere" in words(figure)


def test_long_names_stay_within_the_figure(visualized: VisualizedModel) -> None:
    long = replace(visualized, run="a-run-of-" + "words-" * 30)
    found = look(long, "deconvnet", "layers.3", [1])
    assert isinstance(found, LayerUnits)
    name = "inception_4e.a_branch.of_five_by_five.convolution_after_its_reduction"
    found = replace(found, layer=replace(found.layer, name=name))
    figure = feature_figure(long, found)
    figure.draw_without_rendering()
    assert len(figure.texts) == 2
    for text in figure.texts:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
        assert "\n" in text.get_text()
