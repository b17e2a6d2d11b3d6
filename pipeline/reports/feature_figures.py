"""What a trained network has learned, as figures: filters, what excites units, occlusion maps.

A figure's title says what is shown, the lines below it of which run, network, data, protocol and
day. A colour bar stands where a colour is a number; pictures in colour have none.
"""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from pipeline.reports.figure_style import MUTED, drawn_lines, figure_style, series_colour
from pipeline.results.published import protocol_words
from pipeline.visualization.filters import filters_image
from pipeline.visualization.pictures import (
    CoveredImage,
    CoveredImages,
    Findings,
    FirstFilters,
    LayerUnits,
    VisualizedModel,
)

_WIDTH, _COLUMNS = 7.6, 3  # of a figure in inches, and of units in it
_TITLE, _SOURCE = 70, 105  # characters that fit a line


def feature_figure(visualized: VisualizedModel, found: Findings) -> Figure:
    """Draw what was found in a run's network."""
    recipe, split = visualized.recipe, visualized.split
    epochs = f"{recipe.epochs} epoch{'s' * (recipe.epochs != 1)}"
    trained = f"{recipe.network.name}, trained on {recipe.data.name} {recipe.data.train_split}"
    source = f"{visualized.run}: {trained}, {epochs}" + f", {visualized.date}" * bool(
        visualized.date
    )
    protocol = protocol_words(visualized.protocol.name(recipe.input.size))
    shown = f"{source}\nimages: {recipe.data.name} {split.name} ({len(split):,}), {protocol}"
    match found:
        case FirstFilters():
            return filters_figure(found.weights, source)
        case LayerUnits():
            is_gray = recipe.input.num_channels == 1
            return _units_figure(found, shown, is_gray=is_gray)
        case CoveredImages():
            return _occlusion_figure(found.images, shown)


def picture_name(what: str, found: Findings) -> str:
    """Return the name of the picture's file, without a suffix, as "activations-conv5"."""
    return f"{what}-{found.layer.name}" if isinstance(found, LayerUnits) else what


def filters_figure(filters: Tensor, source: str) -> Figure:
    """Draw the filters of a first convolution, (filters, c, h, w) with c 1 or 3."""
    picture = filters_image(filters)
    count, channels, height, width = filters.shape
    largest = filters.abs().amax(dim=(1, 2, 3))
    colours = "; red, green and blue are the weights of these channels" if channels == 3 else ""
    figure = _figure(
        f"The {count} filters of the first layer, {height}×{width}×{channels}",
        f"{source}\neach is scaled by its largest weight, {largest.min():.2g} to "
        f"{largest.max():.2g}; grey is 0{colours}",
        height=_WIDTH * picture.height / picture.width + 0.5 * (channels == 1),
    )
    with figure_style():
        axes = figure.subplots()
        axes.imshow(picture, interpolation="none")
        axes.set_axis_off()
        if channels == 1:
            label = "weight, as a share of the filter's largest"
            _add_bar(figure, axes, ScalarMappable(Normalize(-1, 1), "gray"), label)
    return figure


def _units_figure(found: LayerUnits, source: str, *, is_gray: bool) -> Figure:
    columns = min(_COLUMNS, len(found.units))
    rows = math.ceil(len(found.units) / columns)
    field = "×".join(map(str, found.layer.receptive_field))
    below, grey = (", above their projections", "; grey is 0") if found.is_projected else ("", "")
    has_bar = found.is_projected and is_gray
    width, height = found.units[0].picture.size
    figure = _figure(
        f"Patches that excite {found.layer.name} most{below}",
        f"{source}\npatches of {field} pixels, the receptive field; above, their highest and "
        f"lowest activation{grey}",
        height=rows * (_WIDTH / _COLUMNS * height / width + 0.25) + 0.5 * has_bar,
    )
    with figure_style():
        axes = _panels(figure, rows, _COLUMNS)
        for number, unit in enumerate(found.units):
            panel = axes[divmod(number, columns)]
            panel.imshow(unit.picture, interpolation="none")
            _title(panel, f"unit {unit.unit}: {unit.values[0]:.3g} to {unit.values[-1]:.3g}")
        if has_bar:
            label = "projection to a pixel, as a share of the 99th percentile of its magnitudes"
            _add_bar(figure, axes, ScalarMappable(Normalize(-1, 1), "gray"), label)
    return figure


def _occlusion_figure(images: Sequence[CoveredImage], source: str) -> Figure:
    columns = min(2, len(images))
    rows = math.ceil(len(images) / columns)
    found = images[0].occlusion
    figure = _figure(
        "Where covering an image costs its class most",
        f"{source}\na square of the mean grey, {found.side}×{found.side} pixels, at "
        f"{len(found.starts)}² places; the frame is where it costs most",
        height=rows * (_WIDTH / 4 + 0.25) + 0.5,
    )
    with figure_style():
        axes = _panels(figure, rows, 4)
        for number, image in enumerate(images):
            row, column = divmod(number, columns)
            _draw_covered(axes[row][2 * column], axes[row][2 * column + 1], image)
        label = "probability of the class, the square centred there"
        _add_bar(figure, axes, ScalarMappable(Normalize(0, 1), "viridis"), label)
    return figure


def _draw_covered(left: Axes, right: Axes, image: CoveredImage) -> None:
    found, size = image.occlusion, image.pixels.shape[0]
    low, high = found.probabilities.aminmax()
    left.imshow(image.pixels, extent=(0, size, size, 0))
    _title(left, f"{image.class_name}: {found.uncovered:.2f}")
    places = len(found.starts)
    row, column = divmod(int(found.probabilities.argmin()), places)
    corner = (found.starts[column], found.starts[row])
    left.add_patch(Rectangle(corner, found.side, found.side, fill=False, color=series_colour(1)))
    # A value stands where the square's centre was, half a square from the edge at least.
    step = (size - found.side) / (places - 1)
    first, last = (found.side - step) / 2, size - (found.side - step) / 2
    right.imshow(
        found.probabilities.numpy(),
        cmap="viridis",
        vmin=0,
        vmax=1,
        extent=(first, last, last, first),
    )
    right.set(xlim=(0, size), ylim=(size, 0))
    _title(right, f"covered: {low:.2f} to {high:.2f}")


def _figure(title: str, source: str, height: float) -> Figure:
    """Make a figure around `height` inches of pictures."""
    title = textwrap.fill(title, _TITLE)
    source = "\n".join(textwrap.fill(line, _SOURCE) for line in source.splitlines())
    with figure_style():
        lines = 1.3 * len(title.splitlines()) + len(source.splitlines())
        figure = Figure(figsize=(_WIDTH, height + 0.3 + 0.16 * lines))
        figure.set_layout_engine("constrained", h_pad=0.03, hspace=0.01)
        figure.suptitle(drawn_lines(title), x=0.01, ha="left", fontsize=11, fontweight="bold")
        figure.supxlabel(drawn_lines(source), x=0.01, ha="left", fontsize=8, color=MUTED)
    return figure


def _panels(figure: Figure, rows: int, columns: int) -> Any:
    """Return an array of axes without lines or ticks."""
    axes = figure.subplots(rows, columns, squeeze=False)
    for one in axes.flat:
        one.set_axis_off()
        _title(one, "")
    return axes


def _title(axes: Axes, text: str) -> None:
    # A dollar sign would begin a formula; without a height one is looked for, which takes long.
    axes.set_title(drawn_lines(text), fontsize=8.5, fontweight="normal", y=1.0)


def _add_bar(figure: Figure, axes: Any, colours: ScalarMappable, label: str) -> None:
    bar = figure.colorbar(colours, ax=axes, location="bottom", fraction=0.05, aspect=60, pad=0.02)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=8)
