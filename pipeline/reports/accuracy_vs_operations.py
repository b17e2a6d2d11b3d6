"""Accuracy against operations and parameters, as drawn by Canziani, Paszke & Culurciello (2016).

Their Figure 2: the top-1 accuracy of one central crop over the operations of one forward pass, a
multiply-add counting as two; the markers' size is the number of parameters (here their area).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.models.profile import profile_model
from pipeline.models.zoo import NETWORKS
from pipeline.reports.figure_style import (
    INK,
    MUTED,
    add_source,
    drawn_text,
    figure_style,
    series_colour,
)
from pipeline.results.measured import Measured
from pipeline.results.published import ResultKey, protocol_passes, published

_POINTS2_PER_MILLION = 9.0
_LEGEND = (5, 35, 65, 95, 125, 155)  # million parameters, as theirs


@dataclass(frozen=True)
class ModelSize:
    """Operations of one forward pass (2 × multiply-adds), and parameters, as tested."""

    operations: int
    parameters: int


@dataclass(frozen=True)
class Marker:
    """A result by `protocol`; `accuracy` in percent, with the half widths of its interval.

    `colour` is the run's index in the page, None for a published result.
    """

    name: str
    size: ModelSize
    accuracy: float
    protocol: str
    below: float = 0.0
    above: float = 0.0
    colour: int | None = None


@cache
def model_size(
    network: str, num_classes: int = 1000, shape: tuple[int, ...] | None = None
) -> ModelSize:
    """Return the size of a network of the zoo, on an image of `shape` or of the published one."""
    with torch.device("meta"):
        channels = (shape[0],) if shape else ()
        model = NETWORKS[network](num_classes, *channels)
        profile = profile_model(model, shape or model.input_shape.published)
    return ModelSize(2 * profile.multiply_adds, profile.parameters)


def is_single_view(key: ResultKey) -> bool:
    return key.ensemble_size == 1 and protocol_passes(key.protocol) == 1


def published_markers() -> list[Marker]:
    """Return a marker for each network of the zoo with a published error of one view on val."""
    markers: dict[str, Marker] = {}
    for result in published():
        key = result.key
        if (
            (key.training_data, key.split, key.extra_data) == ("ilsvrc2012", "val", "none")
            and is_single_view(key)
            and key.network in NETWORKS
            and result.top1_error is not None
        ):
            accuracy = 100 - result.top1_error
            marker = Marker(key.network, model_size(key.network), accuracy, key.protocol)
            markers.setdefault(key.network, marker)
    return list(markers.values())


def measured_marker(result: Measured, size: ModelSize, colour: int) -> Marker:
    top1 = result.errors[0]
    low, high = top1.interval.low, top1.interval.high
    return Marker(
        result.run or result.key.network, size, 100 - top1.value, result.key.protocol,
        high - top1.value, top1.value - low, colour,
    )  # fmt: skip


def is_on_one_line(markers: Sequence[Marker]) -> bool:
    """Whether the markers lie on a line, as all of one network or of two do."""
    return len({marker.size.operations for marker in markers}) <= 2


def operations_words(markers: Sequence[Marker]) -> list[str]:
    """Say what a figure of these would show, in a line for each size."""
    by_size: dict[ModelSize, list[float]] = {}
    for marker in sorted(markers, key=lambda marker: marker.size.operations):
        by_size.setdefault(marker.size, []).append(marker.accuracy)
    return [
        f"{_millions(size.operations)} M-Ops, {size.parameters:,} parameters: accuracy "
        + " to ".join(dict.fromkeys(f"{end(found):.2f}" for end in (min, max)))
        + f" % in {len(found)} result{'s' * (len(found) != 1)}"
        for size, found in by_size.items()
    ]


def _millions(count: int) -> str:
    return f"{count / 1e6:,.0f}" if count >= 1e8 else f"{count / 1e6:.3g}"


def operations_figure(markers: Sequence[Marker], title: str, period: str = "") -> Figure:
    """Draw published results in grey and ours, of that period, in colour, each with its name."""
    with figure_style():
        figure = Figure(figsize=(7.6, 4.9), layout="constrained")
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        for marker in sorted(markers, key=lambda m: (m.colour is not None, -m.size.parameters)):
            _draw(axes, marker)
        axes.set_title(drawn_text(title))
        add_source(figure, _source(markers, period))
        _set_scales(axes, markers)
        _add_legend(axes, markers)
        figure.draw_without_rendering()  # lays out the axes, among which names are placed
        _add_names(axes, markers)
    return figure


def _source(markers: Sequence[Marker], period: str) -> str:
    count = Counter(marker.protocol for marker in markers)
    shown = [protocol for protocol, _ in count.most_common(3)]
    more = f" and {len(count) - 3} more" if len(count) > 3 else ""
    published = "grey: published" if any(marker.colour is None for marker in markers) else ""
    is_ours = any(marker.colour is not None for marker in markers)
    ours = f"ours: {period}" if is_ours and period else ""
    return "; ".join(filter(None, [f"{', '.join(shown)}{more}", published, ours]))


def _colour(marker: Marker, published_colour: str) -> str:
    return published_colour if marker.colour is None else series_colour(marker.colour)


def _draw(axes: Axes, marker: Marker) -> None:
    colour = _colour(marker, MUTED)
    area = max(12.0, _POINTS2_PER_MILLION * marker.size.parameters / 1e6)
    x, y = marker.size.operations, marker.accuracy
    axes.scatter(x, y, s=area, color=colour, alpha=0.25, linewidths=0)
    axes.scatter(x, y, s=7, color=colour, linewidths=0)
    if marker.below or marker.above:
        error = [[marker.below], [marker.above]]
        axes.errorbar(x, y, error, color=colour, linewidth=1.2, capsize=2)


def _set_scales(axes: Axes, markers: Sequence[Marker]) -> None:
    operations = [marker.size.operations for marker in markers]
    unit, name = (1e9, "G-Ops") if max(operations) > 5e8 else (1e6, "M-Ops")
    axes.set_xlabel(f"operations of one forward pass, {name} (2 × multiply-adds)")
    axes.set_ylabel("top-1 accuracy, one view, %")
    if max(operations) > 50 * min(operations):
        axes.set_xscale("log")
        axes.set_xlim(min(operations) / 3, max(operations) * 3)
    else:
        axes.set_xlim(0, 1.3 * max(operations))  # with room for a name
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / unit:g}")
    low = min(marker.accuracy - marker.below for marker in markers)
    high = max(marker.accuracy + marker.above for marker in markers)
    margin = max(1.0, 0.12 * (high - low))
    axes.set_ylim(low - margin, min(100.5, high + margin))


def _add_legend(axes: Axes, markers: Sequence[Marker]) -> None:
    largest = max(marker.size.parameters for marker in markers) / 1e6
    shown = [size for size in _LEGEND if size <= largest + 30] if largest > 5 else []
    for size in shown:
        axes.scatter([], [], s=_POINTS2_PER_MILLION * size, color=MUTED, alpha=0.25, linewidths=0,
                     label=f"{size} M")  # fmt: skip
    if shown:
        axes.legend(
            title="parameters", loc="lower right", ncols=len(shown), frameon=False,
            labelspacing=1.6, columnspacing=2.2, handletextpad=0.9, borderpad=1.2,
            fontsize=8, title_fontsize=8,
        )  # fmt: skip


def _add_names(axes: Axes, markers: Sequence[Marker]) -> None:
    """Write each name beside its marker, moved so that names don't overlap."""
    names = [
        axes.text(
            marker.size.operations, marker.accuracy, drawn_text(marker.name), fontsize=7.5,
            va="center", color=_colour(marker, INK),
        )
        for marker in markers
    ]  # fmt: skip
    line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.5}
    # A number of iterations and no time limit, so that the figure doesn't depend on the speed.
    adjust_text(names, ax=axes, expand=(1.15, 1.4), iter_lim=100, arrowprops=line)
