"""Images with what a network takes them for, as one picture."""

import math
from collections.abc import Sequence
from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from pipeline.data.store.image_check import in_8_bits
from pipeline.data.store.packing import Sample
from pipeline.evaluation.guesses import Answer, Guess
from pipeline.reports.figure_style import (
    INK,
    add_source,
    drawn_text,
    figure_style,
    series_colour,
)

_COLUMNS = 3
_LONGEST_NAME = 28


def prediction_figure(answered: Sequence[tuple[Sample, Answer]], source: str) -> Figure:
    """Draw images, each above bars of its likeliest classes by the same network.

    Its title says which network, which weights and which protocol; `source`, below it, what the
    network was trained on, and the date.
    """
    columns = min(_COLUMNS, len(answered))
    rows = math.ceil(len(answered) / columns)
    answer = answered[0][1]
    num_bars = len(answer.guesses)
    with figure_style():
        figure = Figure(figsize=(3.6 * columns, (2.9 + 0.24 * num_bars) * rows + 0.5))
        figure.set_layout_engine("constrained")
        figure.suptitle(
            f"{drawn_text(answer.network)}, weights {answer.weights_digest[:8]}, {answer.protocol}",
            fontsize=11,
            fontweight="bold",
        )
        heights = (2.4, 0.3 + 0.24 * num_bars) * rows
        axes = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=heights)
        for one in axes.flat:
            one.set_axis_off()
        for number, (sample, each) in enumerate(answered):
            row, column = divmod(number, columns)
            above, below = axes[2 * row][column], axes[2 * row + 1][column]
            above.imshow(_pixels(sample))
            above.set_title(drawn_text(sample.key.rpartition("/")[2], _LONGEST_NAME), loc="center")
            _bars(below, each.guesses)
        add_source(figure, source)
    return figure


def _bars(axes: Axes, guesses: Sequence[Guess]) -> None:
    places = range(len(guesses))
    axes.set_axis_on()
    axes.grid(visible=False)
    axes.barh(places, [each.probability for each in guesses], color=series_colour(0), alpha=0.45)
    for place, each in zip(places, guesses, strict=True):
        text = f"{drawn_text(each.name, _LONGEST_NAME)}  {100 * each.probability:.1f} %"
        axes.text(0.01, place, text, va="center", ha="left", color=INK, fontsize=8.5)
    axes.set(xlim=(0, 1), ylim=(len(guesses) - 0.5, -0.5), xticks=[], yticks=[])
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def _pixels(sample: Sample) -> Image.Image:
    with Image.open(BytesIO(sample.data)) as file:
        image = in_8_bits(file).convert("RGB")
    image.thumbnail((480, 360))
    return image
