"""Accuracy against operations against parameters, as Canziani, Paszke & Culurciello (2016) drew it.

Their Figure 2: the top-1 accuracy of one central crop over the operations of one forward pass, a
multiply-add counting as two, with blobs as large as the network has parameters (here by area).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.models.profile import profile_model
from pipeline.models.zoo import NETWORKS
from pipeline.reports.theme import INK, MUTED, series_colour, style
from pipeline.results.comparability import alike
from pipeline.results.measured import Measured, errors_of
from pipeline.results.published import ResultKey, protocol_passes, published

_POINTS2_A_MILLION = 9.0
_LEGEND = (5, 35, 65, 95, 125, 155)  # million parameters, as theirs


@dataclass(frozen=True)
class ModelSize:
    """Operations of one forward pass (2 × multiply-adds), and parameters, as tested."""

    operations: int
    parameters: int


@dataclass(frozen=True)
class Marker:
    """`accuracy` in percent, with the half widths of its interval; `colour` None for published."""

    name: str
    size: ModelSize
    accuracy: float
    below: float = 0.0
    above: float = 0.0
    colour: int | None = None


@cache
def size_of(network: str, classes: int = 1000, shape: tuple[int, ...] | None = None) -> ModelSize:
    """Count a network of the zoo for `classes`, at an image of `shape` or of the published one."""
    with torch.device("meta"):
        model = NETWORKS[network](classes, (shape or (3,))[0])
        anatomy = profile_model(model, shape or model.input_shape.published)
    return ModelSize(2 * anatomy.multiply_adds, anatomy.parameters)


def published_markers(data: str = "ilsvrc2012", split: str = "val") -> list[Marker]:
    """Return the networks of the zoo whose single crop is published, one blob each."""
    blobs = {}
    for result in published():
        key = result.key
        if (
            (key.training_data, key.split, key.ensemble_size, key.extra_data)
            == (data, split, 1, "none")
            and protocol_passes(key.protocol) == 1
            and key.network in NETWORKS
            and key.network not in blobs
        ):
            first = next((r for r in alike(key) if r.top1_error is not None), None)
            if first and first.top1_error is not None:
                blobs[key.network] = Marker(
                    key.network, size_of(key.network), 100 - first.top1_error
                )
    return list(blobs.values())


def measured_marker(result: Measured, size: ModelSize, colour: int) -> Marker:
    assert result.counts is not None
    top1, _ = errors_of(result.counts)
    low, high = top1.interval.low, top1.interval.high
    return Marker(
        result.run or result.key.network, size, 100 - top1.value,
        high - top1.value, top1.value - low, colour,
    )  # fmt: skip


def is_single_view(key: ResultKey) -> bool:
    return key.ensemble_size == 1 and protocol_passes(key.protocol) == 1


def operations_figure(blobs: Sequence[Marker], title: str) -> Figure:
    """Draw published blobs in grey and ours in colour, each with its name where there is room."""
    with style():
        figure = Figure(figsize=(7.6, 4.9), layout="constrained")
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        for blob in sorted(
            blobs, key=lambda blob: (blob.colour is not None, -blob.size.parameters)
        ):
            _draw(axes, blob)
        axes.set_title(title)
        is_large = max(blob.size.operations for blob in blobs) > 5e8
        unit, name = (1e9, "G-Ops") if is_large else (1e6, "M-Ops")
        axes.set_xlabel(f"operations of one forward pass, {name} (2 × multiply-adds)")
        axes.set_ylabel("top-1 accuracy, one view, %")
        operations = [blob.size.operations for blob in blobs]
        if max(operations) > 50 * min(operations):
            axes.set_xscale("log")
            axes.set_xlim(min(operations) / 3, max(operations) * 3)
        else:
            axes.set_xlim(0, 1.12 * max(operations))
        axes.xaxis.set_major_formatter(lambda x, _: f"{x / unit:g}")
        low = min(blob.accuracy - blob.below for blob in blobs)
        high = max(blob.accuracy + blob.above for blob in blobs)
        room = max(1.0, 0.12 * (high - low))
        axes.set_ylim(low - room, min(100.5, high + room))
        _add_legend(axes, blobs)
        _name(figure, axes, blobs)
    return figure


def _draw(axes: Axes, blob: Marker) -> None:
    colour = MUTED if blob.colour is None else series_colour(blob.colour)
    area = max(12.0, _POINTS2_A_MILLION * blob.size.parameters / 1e6)
    x, y = blob.size.operations, blob.accuracy
    axes.scatter(x, y, s=area, color=colour, alpha=0.25, linewidths=0)
    axes.scatter(x, y, s=7, color=colour, linewidths=0)
    if blob.below or blob.above:
        axes.errorbar(x, y, [[blob.below], [blob.above]], color=colour, linewidth=1.2, capsize=2)


def _add_legend(axes: Axes, blobs: Sequence[Marker]) -> None:
    largest = max(blob.size.parameters for blob in blobs) / 1e6
    shown = [size for size in _LEGEND if size <= largest + 30] if largest > 5 else []
    for size in shown:
        axes.scatter([], [], s=_POINTS2_A_MILLION * size, color=MUTED, alpha=0.25, linewidths=0,
                     label=f"{size} M")  # fmt: skip
    if shown:
        axes.legend(
            title="parameters", loc="lower right", ncols=len(shown), frameon=False,
            labelspacing=1.6, columnspacing=2.2, handletextpad=0.9, borderpad=1.2,
            fontsize=8, title_fontsize=8,
        )  # fmt: skip


def _name(figure: Figure, axes: Axes, blobs: Sequence[Marker]) -> None:
    """Write each name beside its point, at the first of some places where it covers nothing."""
    figure.draw_without_rendering()
    taken: list[tuple[float, float, float, float]] = []
    for blob in blobs:
        x, y = axes.transData.transform((blob.size.operations, blob.accuracy))
        taken.append((x - 3, y - 3, x + 3, y + 3))
    scale = figure.dpi / 72
    edge = axes.get_window_extent()
    for blob in sorted(blobs, key=lambda blob: (blob.colour is None, -blob.accuracy)):
        x, y = axes.transData.transform((blob.size.operations, blob.accuracy))
        width, height = 4.4 * scale * len(blob.name), 9.0 * scale
        for dx, dy in _PLACES:
            left = x + dx * scale if dx >= 0 else x + dx * scale - width
            box = (left, y + dy * scale - height / 2, left + width, y + dy * scale + height / 2)
            inside = edge.x0 < box[0] and box[2] < edge.x1
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                axes.annotate(
                    blob.name,
                    (blob.size.operations, blob.accuracy),
                    (dx, dy),
                    textcoords="offset points",
                    fontsize=7.5,
                    ha="left" if dx >= 0 else "right",
                    va="center",
                    color=INK if blob.colour is None else series_colour(blob.colour),
                    arrowprops=(
                        {"arrowstyle": "-", "color": MUTED, "linewidth": 0.5, "shrinkB": 2}
                        if abs(dx) > 8 or dy != 0
                        else None
                    ),
                )
                break


_PLACES = [
    (dx, dy)
    for reach in (1, 2, 3, 4)
    for dx, dy in (
        *((6 * reach, 0), (-6 * reach, 0), (5 * reach, 9 * reach), (5 * reach, -9 * reach)),
        *((-5 * reach, 9 * reach), (-5 * reach, -9 * reach)),
    )
]


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
