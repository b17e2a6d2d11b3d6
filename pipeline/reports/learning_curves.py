"""Learning curves of several runs in one figure; in words where all points lie on a line."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.evaluation.metrics import has_top5
from pipeline.reports.figure_style import add_source, figure_style, series_colour
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
        return self.metrics.get(self._evaluated_name(suffix), ())

    @property
    def source(self) -> str:
        """The data set, and the split and protocol of the evaluations during training."""
        data = self.run.tags.get("dataset.name") or self.run.params.get("recipe.data.name", "")
        _, *test = self._evaluated_name("/top1_error").split("/")
        return f"{data} {', '.join(test[:2])}".strip()

    @property
    def has_top5(self) -> bool:
        classes = self.run.params.get("recipe.network.num_classes")
        return has_top5(int(classes) if classes else None)

    def _evaluated_name(self, suffix: str) -> str:
        names = [n for n in self.metrics if n.startswith("eval/") and n.endswith(suffix)]
        return max(names, key=lambda name: len(self.metrics[name]), default="")


@dataclass(frozen=True)
class Panel:
    """`train` is a training metric's name, `test` the end of an evaluation metric's."""

    title: str
    train: str
    test: str = ""
    log: bool = False

    def curves(self, history: MetricHistory) -> "Curves":
        if self.train == "train/top5_error" and not history.has_top5:
            return Curves()
        test = history.evaluated(self.test) if self.test else ()
        train = history.metrics.get(self.train, ())
        return Curves(*([p for p in curve if math.isfinite(p.value)] for curve in (train, test)))


@dataclass(frozen=True)
class Curves:
    """What a panel shows of one run."""

    train: Sequence[Point] = ()
    test: Sequence[Point] = ()

    @property
    def words(self) -> str:
        """The curves in words, if all points of each lie on a line; empty if they don't."""
        if not (is_straight(self.train) and is_straight(self.test)):
            return ""
        named = {"training": self.train, "test": self.test}
        parts = {name: _straight_words(points) for name, points in named.items() if points}
        if len(parts) == 1:
            return next(iter(parts.values()))
        return ", ".join(f"{name} {words}" for name, words in parts.items())


PANELS = (
    Panel("Loss", "train/loss", "/loss", log=True),
    Panel("Top-1 error, %", "train/top1_error", "/top1_error"),
    Panel("Top-5 error, %", "train/top5_error", "/top5_error"),
    Panel("Learning rate", "train/learning_rate", log=True),
    Panel("Gradient norm", "train/gradient_norm", log=True),
    Panel("Images/s", "train/images_per_second"),
)


def curve_figures(histories: Sequence[MetricHistory]) -> dict[str, Figure]:
    """Draw one figure for each panel that any run has a curve for, by its title.

    Training is drawn thin, testing thick; long curves as means of equally many steps. A panel whose
    points all lie on lines is left out: `curve_words` says what it would show.
    """
    figures = {}
    for panel in PANELS:
        curves = [panel.curves(history) for history in histories]
        if any((each.train or each.test) and not each.words for each in curves):
            with figure_style():
                figures[panel.title] = _figure(panel, histories)
    return figures


def curve_words(histories: Sequence[MetricHistory]) -> dict[str, dict[str, list[MetricHistory]]]:
    """Return the panels that are not drawn by their titles: in words, and of which runs."""
    panels: dict[str, dict[str, list[MetricHistory]]] = {}
    for panel in PANELS:
        curves = [(history, panel.curves(history)) for history in histories]
        shown = [(history, each) for history, each in curves if each.train or each.test]
        if shown and all(each.words for _, each in shown):
            found = panels.setdefault(panel.title, {})
            for history, each in shown:
                found.setdefault(each.words, []).append(history)
    return panels


def source_of(histories: Sequence[MetricHistory]) -> str:
    """Return on which data, by which protocol and when the runs were made, for a picture."""
    sources = list(dict.fromkeys(history.source for history in histories if history.source))
    if len(sources) > 2:
        sources = [*sources[:2], f"{len(sources) - 2} more"]
    return "; ".join(filter(None, [*sources, period_of([each.run for each in histories])]))


def period_of(runs: Sequence[TrackedRun]) -> str:
    """Return the day on which the runs began, or the first and the last; empty without runs."""
    days = sorted(f"{run.started:%Y-%m-%d}" for run in runs)
    return " to ".join(dict.fromkeys([days[0], days[-1]])) if days else ""


def _figure(panel: Panel, histories: Sequence[MetricHistory]) -> Figure:
    figure = Figure(figsize=(4.4, 2.7), layout="constrained")
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    lowest = math.inf
    in_epochs = all(history.steps_per_epoch for history in histories)
    for history in histories:
        scale = (history.steps_per_epoch or 1) if in_epochs else 1
        curves = panel.curves(history)
        thin = (0.9, 0.55) if curves.test else (1.6, 1.0)
        for points, width, alpha in ((curves.train, *thin), (curves.test, 2.0, 1.0)):
            shown = thinned(points)
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
    if panel.log and lowest > 0:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_title(panel.title)
    axes.set_xlabel("epochs" if in_epochs else "steps")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(which="minor", visible=False)
    add_source(figure, source_of(histories))
    return figure


def is_straight(points: Sequence[Point]) -> bool:
    """Whether all points lie on one line, but for rounding."""
    if len(points) <= 2:
        return True
    first, last = points[0], points[-1]
    slope = (last.value - first.value) / max(1, last.step - first.step)
    largest = max(abs(point.value) for point in points)
    return all(
        abs(point.value - first.value - slope * (point.step - first.step)) <= 1e-6 * largest
        for point in points
    )


def _straight_words(points: Sequence[Point]) -> str:
    first, last = (f"{points[end].value:.4g}" for end in (0, -1))
    if first == last:
        return f"{first} throughout" if len(points) > 1 else first
    return f"{first} → {last}" + ", in a straight line" * (len(points) > 2)


def thinned(points: Sequence[Point], at_most: int = _MAX_POINTS) -> list[Point]:
    """Return at most so many points: means of neighbours, at the last of their steps."""
    if len(points) <= at_most:
        return list(points)
    bounds = [round(i * len(points) / at_most) for i in range(at_most + 1)]
    groups = [points[start:end] for start, end in pairwise(bounds)]
    return [
        Point(group[-1].step, sum(point.value for point in group) / len(group)) for group in groups
    ]
