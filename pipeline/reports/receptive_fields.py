"""How far the positions of each layer see, network by network, in one figure."""

from collections.abc import Sequence
from itertools import accumulate

from matplotlib.figure import Figure

from pipeline.models.profile import ModelProfile
from pipeline.models.summary import ModelSummary
from pipeline.reports.figure_style import MUTED, figure_style, series_colour


def receptive_field_figure(networks: Sequence[ModelSummary]) -> Figure:
    """Draw the receptive field, in input pixels along an axis, over convolutions and poolings.

    They are counted in the order they are called, up to the last map; among branches the largest
    field up to there is shown. Dashed: the sides of their inputs.
    """
    with figure_style():
        figure = Figure(figsize=(7.6, 4.2), layout="constrained")
        axes = figure.subplots()
        for number, network in enumerate(networks):
            fields = growing_fields(network.profile)
            name = f"{network.name}: {fields[-1]:,} pixels"
            colour = series_colour(number)
            axes.plot(range(len(fields)), fields, color=colour, label=name, marker=".")
        for side in sorted({max(network.input_shape[1:]) for network in networks}):
            axes.axhline(side, color=MUTED, linestyle="--", linewidth=1)
            axes.annotate(f"input: {side:,} ", (1, side), xycoords=("axes fraction", "data"),
                          ha="right", va="bottom", fontsize=8, color=MUTED)  # fmt: skip
        axes.set_yscale("log")
        axes.grid(which="minor", visible=False)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_title("Receptive fields")
        axes.set_xlabel("convolutions and poolings, in the order they are called")
        axes.set_ylabel("receptive field, input pixels")
        axes.legend(frameon=False, fontsize=8, title="at the last map", title_fontsize=8)
    return figure


def growing_fields(profile: ModelProfile) -> list[int]:
    """Return the largest receptive field after 0, 1, … convolutions and poolings with a window.

    It ends at the last map, before its positions are joined.
    """
    last = max(profile.receptive_field)
    fields = [
        max(layer.receptive_field)
        for layer in profile.layers
        if any(window.kernel > 1 or window.stride > 1 for window in layer.windows)
    ]
    return list(accumulate((field for field in fields if field <= last), max, initial=1))
