"""Learning curves of several runs in one figure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.reports.figure_style import figure_style, series_colour
from pipeline.tracking.queries import Point, TrackedRun

_MAX_POINTS = 300


@dataclass(frozen=True)
class MetricHistory:
    """The metrics of one run over its training; `colour` is the run's index in the page."""

    run: TrackedRun
    metrics: Mapping[str, Sequence[Point]]
    colour: int

    @property
    def steps_per_epoch(self) -> int | None:
        """The step of the first evaluation, which follows a whole epoch; None before it."""
        evaluated = [
            point.step
            for name, points in self.metrics.items()
            if name.startswith("eval/")
            for point in points[:1]
            if point.step
        ]
        return min(evaluated, default=None)

    def evaluated(self, suffix: str) -> Sequence[Point]:
        """The metric of the evaluations during training: the longest whose name ends so."""
        names = [n for n in self.metrics if n.startswith("eval/") and n.endswith(suffix)]
        return max((self.metrics[name] for name in names), key=len, default=())


@dataclass(frozen=True)
class Panel:
    """`train` is a training metric's name, `test` the end of an evaluation metric's."""

    title: str
    train: str
    test: str = ""
    log: bool = False


PANELS = (
    Panel("Loss", "train/loss", "/loss", log=True),
    Panel("Top-1 error, %", "train/top1_error", "/top1_error"),
    Panel("Top-5 error, %", "train/top5_error", "/top5_error"),
    Panel("Learning rate", "train/learning_rate", log=True),
    Panel("Gradient norm", "train/gradient_norm", log=True),
    Panel("Images/s", "train/images_per_second"),
)


def curve_figures(histories: Sequence[MetricHistory]) -> dict[str, Figure]:
    """Draw one figure for each panel that any run has points for, by its title.

    Training is drawn thin, testing thick; long curves as means of equally many steps.
    """
    figures = {}
    for panel in PANELS:
        with figure_style():
            figure = _figure(panel, histories)
        if figure:
            figures[panel.title] = figure
    return figures


def _figure(panel: Panel, histories: Sequence[MetricHistory]) -> Figure | None:
    figure = Figure(figsize=(4.4, 2.7), layout="constrained")
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    lowest = math.inf
    in_epochs = all(history.steps_per_epoch for history in histories)
    for history in histories:
        scale = (history.steps_per_epoch or 1) if in_epochs else 1
        test = history.evaluated(panel.test) if panel.test else ()
        for points, width, alpha in (
            (history.metrics.get(panel.train, ()), 0.9 if test else 1.6, 0.55 if test else 1.0),
            (test, 2.0, 1.0),
        ):
            shown = [point for point in thinned(points) if math.isfinite(point.value)]
            if not shown:
                continue
            lowest = min(lowest, *(point.value for point in shown))
            axes.plot(
                [point.step / scale for point in shown],
                [point.value for point in shown],
                color=series_colour(history.colour),
                linewidth=width,
                alpha=alpha,
                marker="o" if len(shown) == 1 else "",
                solid_capstyle="round",
            )
    if lowest == math.inf:
        return None
    if panel.log and lowest > 0:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_title(panel.title)
    axes.set_xlabel("epochs" if in_epochs else "steps")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(which="minor", visible=False)
    return figure


def thinned(points: Sequence[Point], at_most: int = _MAX_POINTS) -> list[Point]:
    """Return at most so many points: means of neighbours, at the last of their steps."""
    if len(points) <= at_most:
        return list(points)
    bounds = [round(i * len(points) / at_most) for i in range(at_most + 1)]
    groups = [points[start:end] for start, end in pairwise(bounds)]
    return [
        Point(group[-1].step, sum(point.value for point in group) / len(group)) for group in groups
    ]
