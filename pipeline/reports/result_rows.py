"""The page's tables of results: rows that share an axis for each error."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.reports.comparison import Comparison, Notes, compare
from pipeline.reports.error_axis import ErrorAxis
from pipeline.reports.figure_style import SERIES
from pipeline.reports.page_data import ReportedRun
from pipeline.reports.result_groups import ResultGroup, result_groups
from pipeline.results.measured import Measured, MeasuredError
from pipeline.results.published import ErrorName, Published
from pipeline.results.seed_groups import SeedGroup, SeedSpread
from pipeline.results.training_settings import (
    SEED,
    differing_settings,
    setting_names,
    training_settings,
)

_MOST_IN_LABELS = 4


@dataclass(frozen=True)
class ErrorCell:
    """An error in words, and as a bar on the axis of its column."""

    value: str
    spread: str
    bar: Markup


@dataclass(frozen=True)
class ResultRow:
    """A result, the mean of seeds (`mean_of` says of how many), or a published one of others.

    `is_of_mean`: the row belongs to the mean above it. `note`: of the comparison, where it is new.
    `words`: the settings and the seed, where there is no room for their columns.
    """

    settings: Sequence[str]
    errors: Sequence[ErrorCell | None]
    run: ReportedRun | None = None
    comparison: Comparison | None = None
    mean_of: str = ""
    is_of_mean: bool = False
    note: str = ""
    words: str = ""
    other: Published | None = None


@dataclass(frozen=True)
class ResultPanel:
    """The results of one data set, split and protocol, from the lowest error on."""

    group: ResultGroup
    axes: Mapping[ErrorName, ErrorAxis]
    rows: Sequence[ResultRow]


@dataclass(frozen=True)
class Differences:
    """Every setting in which trainings differ: a row of values, by the setting's name."""

    trainings: Sequence[str]
    rows: Mapping[str, Sequence[str]]


def result_panels(runs: Sequence[ReportedRun]) -> list[ResultPanel]:
    """Return a panel for each data set, split and protocol, in this order."""
    owners = {id(result): run for run in runs for result in run.results}
    groups = result_groups(result for run in runs for result in run.results)
    groups.sort(key=lambda group: group.title)
    return [_PanelBuilder(group, owners).build() for group in groups]


def differences(runs: Sequence[ReportedRun], panels: Sequence[ResultPanel]) -> Differences | None:
    """Return all settings that differ, the seed aside; None if the tables of results show them."""
    trainings: dict[frozenset[tuple[str, str]], list[str]] = {}
    for run in runs:
        settings = training_settings(run.run.params, run.run.tags)
        settings.pop(SEED, None)
        if settings:
            trainings.setdefault(frozenset(settings.items()), []).append(run.name)
    columns = {
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}": dict(settings)
        for settings, names in trainings.items()
    }
    keys = sorted({key for settings in columns.values() for key in settings})
    values = {key: [settings.get(key, "–") for settings in columns.values()] for key in keys}
    rows = {key: found for key, found in values.items() if len(set(found)) > 1}
    shown_in_panels = {key for panel in panels for key in panel.group.shown_settings}
    return Differences(list(columns), rows) if set(rows) - shown_in_panels else None


def run_labels(runs: Sequence[ReportedRun]) -> dict[str, str]:
    """Return by each run's id what tells it from the others, "learning rate 0.05, seed 1"."""
    settings = {run.run.run_id: training_settings(run.run.params, run.run.tags) for run in runs}
    keys = differing_settings(list(settings.values()))
    shown = [
        *[key for key in keys if key != SEED][:_MOST_IN_LABELS],
        *([SEED] if SEED in keys else []),
    ]
    names = setting_names(shown)
    return {
        run_id: ", ".join(f"{name} {values[key]}" for key, name in names.items() if values)
        for run_id, values in settings.items()
    }


class _PanelBuilder:
    def __init__(self, group: ResultGroup, owners: Mapping[int, ReportedRun]) -> None:
        self.group, self.owners = group, owners
        self.settings = group.shown_settings
        self.comparisons = {id(result): compare(result) for result in group.results}
        self.axes = {name: ErrorAxis.over(self._ends(name)) for name in group.error_names}
        self.notes = Notes()

    def build(self) -> ResultPanel:
        rows = [
            row
            for group in sorted(self.group.seeds, key=lambda group: group.top1_error)
            for row in self._rows(group)
        ]
        rows += [self._other(other) for other in self.group.others]
        return ResultPanel(self.group, self.axes, rows)

    def _ends(self, name: ErrorName) -> Iterator[float]:
        """Yield every error to be drawn, and the ends of the intervals."""
        for group in self.group.seeds:
            for spread in group.spreads:
                if spread.name == name:
                    yield max(0.0, spread.value - spread.deviation)
                    yield spread.value + spread.deviation
            for result in group.results:
                comparison = self.comparisons[id(result)]
                for error in result.errors:
                    if error.name == name:
                        yield from (error.interval.low, error.interval.high)
                        if (published := comparison.published_error(error)) is not None:
                            yield published
        yield from (e for other in self.group.others if (e := other.error(name)) is not None)

    def _rows(self, group: SeedGroup) -> Iterator[ResultRow]:
        if group.spreads:
            yield self._mean(group)
        for result in group.results:
            yield self._result(result, is_of_mean=bool(group.spreads))

    def _mean(self, group: SeedGroup) -> ResultRow:
        comparison = self.comparisons[id(group.first)]
        cells: list[ErrorCell | None] = []
        for spread in group.spreads:
            axis, mean, deviation = self.axes[spread.name], spread.value, spread.deviation
            bar = axis.bar(mean, mean - deviation, mean + deviation, "var(--ink)", is_mean=True)
            marks = [bar, *self._published(comparison, spread)]
            cells.append(ErrorCell(f"{mean:.2f}", f"± {deviation:.2f}", axis.row(*marks)))
        return ResultRow(
            self._values(group.first),
            self._padded(cells),
            self.owners[id(group.first)],
            comparison,
            mean_of=group.words,
            note=self.notes.of(comparison),
            words=self._words(group.first, list(self.settings)),
        )

    def _result(self, result: Measured, *, is_of_mean: bool) -> ResultRow:
        run, comparison = self.owners[id(result)], self.comparisons[id(result)]
        series = f"series-{run.history.colour % len(SERIES)}" if run.is_drawn else "muted"
        cells: list[ErrorCell | None] = []
        for error in result.errors:
            axis, interval = self.axes[error.name], error.interval
            colour = f"var(--{series})"
            bar = axis.bar(error.value, interval.low, interval.high, colour, is_mean=False)
            marks = [bar, *self._published(comparison, error)]
            spread = f"{interval.low:.2f}–{interval.high:.2f}"
            cells.append(ErrorCell(f"{error.value:.2f}", spread, axis.row(*marks)))
        return ResultRow(
            ["" for _ in self.settings] if is_of_mean else self._values(result),
            self._padded(cells),
            run,
            comparison,
            is_of_mean=is_of_mean,
            note="" if is_of_mean else self.notes.of(comparison),
            words=self._words(result, [*([] if is_of_mean else self.settings), SEED]),
        )

    def _other(self, other: Published) -> ResultRow:
        cells = [
            None
            if (error := other.error(name)) is None
            else ErrorCell(f"{error:g}", "", axis.row(axis.diamond(error)))
            for name, axis in self.axes.items()
        ]
        return ResultRow(["" for _ in self.settings], cells, other=other)

    def _published(self, comparison: Comparison, ours: MeasuredError | SeedSpread) -> list[Markup]:
        error = comparison.published_error(ours)
        return [] if error is None else [self.axes[ours.name].diamond(error)]

    def _values(self, result: Measured) -> list[str]:
        return [result.settings.get(key, "") for key in self.settings]

    def _words(self, result: Measured, keys: Sequence[str]) -> str:
        names = self.settings | ({SEED: SEED} if self.group.has_seeds else {})
        known = {names[key]: result.settings.get(key) for key in keys if key in names}
        return ", ".join(f"{name} {value}" for name, value in known.items() if value)

    def _padded(self, cells: list[ErrorCell | None]) -> list[ErrorCell | None]:
        return [*cells, *[None] * (len(self.axes) - len(cells))]
