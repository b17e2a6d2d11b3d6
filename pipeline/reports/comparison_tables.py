"""Measured results beside published ones, as tables for a terminal, and as Markdown.

The lecture's benchmark table is separate, with what each of its numbers is.
"""

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from pipeline.reports.comparison import NONE, Comparison, Notes, compare, others
from pipeline.reports.result_groups import ResultGroup, result_groups
from pipeline.reports.tables import titled_table
from pipeline.results.measured import Measured, MeasuredError
from pipeline.results.published import ResultKey, lecture_table, protocol_words
from pipeline.results.seed_groups import SeedGroup, SeedSpread
from pipeline.results.training_settings import SEED
from pipeline.runtime.plain_text import markdown_text

_LECTURE = "The lecture's table: no number here is of one network on one crop"
_SINGLE_NETWORKS = "One network on the validation set: what a run compares with"
_DEVIATION = "±: the sample standard deviation (n − 1)"
_RUN_WIDTH, _PUBLISHED_WIDTH, _GAP = 25, 26, 3


def result_tables(results: Sequence[Measured], width: int) -> list[Table]:
    """Return a table for each data set, split and protocol; runs that differ by seed are grouped.

    What runs differ in has columns as far as `width` has room for them, from 80 on, and lines below
    the run's name beyond that.
    """
    return [_ResultTable(group, width).build() for group in result_groups(results)]


def comparison_tables(results: Sequence[Measured], width: int) -> list[Table]:
    """Return the tables of the results, then the lecture's table in two parts."""
    lecture = titled_table(_LECTURE, leading=1)
    lecture.add_column("Shown as", no_wrap=True)
    lecture.add_column("Top-5", justify="right")
    lecture.add_column("What it is", ratio=1)
    for entry in lecture_table():
        lecture.add_row(entry.name, f"{entry.top5_error:g}", Text(entry.meaning))

    single = titled_table(_SINGLE_NETWORKS, leading=1)
    single.add_column("Network", no_wrap=True)
    single.add_column("Protocol", ratio=1)
    single.add_column("Top-1", justify="right", no_wrap=True)
    single.add_column("Top-5", justify="right", no_wrap=True)
    single.add_column("Source", ratio=1)
    for row in _single_network_rows():
        single.add_row(*(Text(cell) for cell in row))
    return [*result_tables(results, width), lecture, single]


def comparison_markdown(results: Sequence[Measured]) -> str:
    """Return the results and the lecture's table as Markdown, with a column for each quantity."""
    names = max((tuple(e.name for e in result.errors) for result in results), key=len, default=())
    measured = _markdown(
        (
            *("Run", "Network", "Data", "Protocol", "Images"),
            *(f"{name.capitalize()} error, % (95 %)" for name in names),
            *("Published", "Difference", "Verdict"),
        ),
        (_markdown_row(compare(result), len(names)) for result in results),
    )
    notes = "".join(f"\n{note}\n" for group in result_groups(results) if (note := others(group)))
    lecture = _markdown(
        ("Shown as", "Top-5 error, %", "What it is"),
        ((entry.name, f"{entry.top5_error:g}", entry.meaning) for entry in lecture_table()),
    )
    single = _markdown(
        ("Network", "Protocol", "Top-1 error, %", "Top-5 error, %", "Source"),
        _single_network_rows(),
    )
    return f"{measured}{notes}\n{_LECTURE}:\n\n{lecture}\n{_SINGLE_NETWORKS}:\n\n{single}"


class _ResultTable:
    """The table of one group in a terminal of so many columns."""

    def __init__(self, group: ResultGroup, width: int) -> None:
        self._group = group
        self._settings = group.shown_settings | ({SEED: SEED} if group.has_seeds else {})
        self._columns = self._that_fit(width)
        self._notes = Notes()

    def build(self) -> Table:
        table = titled_table(f"{self._group.title}: errors in %", leading=1)
        table.add_column("Run", max_width=_RUN_WIDTH, overflow="fold")
        for key in self._columns:
            table.add_column(self._settings[key].capitalize().replace(" ", "\n"))
        table.add_column("Error (95 % interval)", no_wrap=True)
        table.add_column("Published", ratio=1)
        for group in self._group.seeds:
            if group.spreads:
                self._add_mean(table, group)
            for result in group.results:
                self._add_result(table, result, is_of_mean=bool(group.spreads))
        deviation = _DEVIATION if any(group.spreads for group in self._group.seeds) else ""
        notes = [others(self._group), deviation, self._group.left_out]
        # The empty line parts it from the next table.
        table.caption = _lines([*filter(None, notes), ""]) if any(notes) else None
        table.caption_justify = "left"
        return table

    def _that_fit(self, width: int) -> list[str]:
        """Return the keys that have columns: the first ones, as far as there is room."""
        results = self._group.results
        names = max(len(result.run) for result in results)
        errors = max(len(f"{error.name} {error}") for r in results for error in r.errors)
        is_published = any(compare(result).note != NONE for result in results)
        published = _PUBLISHED_WIDTH if is_published else len("Published")
        room = width - 2 - min(_RUN_WIDTH, names + 2) - _GAP - errors - _GAP - published
        columns = []
        for key, name in self._settings.items():
            values = [result.settings.get(key, "") for result in results]
            room -= _GAP + max(map(len, [*name.split(), *values]))
            if room < 0:
                break
            columns.append(key)
        return columns

    def _add_mean(self, table: Table, group: SeedGroup) -> None:
        comparison = compare(group.first)
        differences = _differences(comparison, group.spreads)
        self._add_row(
            table,
            [f"mean of {group.words}", *self._about(group.first, without=SEED)],
            self._values(group.first, without=SEED),
            [f"{spread.name} {spread}" for spread in group.spreads],
            [*differences, self._notes.of(comparison)],
        )

    def _add_result(self, table: Table, result: Measured, *, is_of_mean: bool) -> None:
        comparison = compare(result)
        published = _differences(comparison, result.errors)
        if comparison.reproduction:
            published.append(comparison.reproduction.words)
        if is_of_mean:
            name, *notes = [*_run(result), *self._lines_of(result, [SEED])]
            run = [f"  {name}", f"  {', '.join(notes)}"]
            values = [result.settings[key] if key == SEED else "" for key in self._columns]
        else:
            run = [*_run(result), *self._about(result)]
            values = self._values(result)
            published.append(self._notes.of(comparison))
        self._add_row(
            table, run, values, [f"{error.name} {error}" for error in result.errors], published
        )

    def _about(self, result: Measured, without: str = "") -> list[str]:
        key, images = result.key, f"{result.counts.images:,} images"
        return [
            key.network,
            *key.qualifiers,
            *([] if images in self._group.title else [images]),
            *self._lines_of(result, [setting for setting in self._settings if setting != without]),
        ]

    def _lines_of(self, result: Measured, keys: Sequence[str]) -> list[str]:
        """Return the settings without a column, in a line each."""
        return [
            f"{self._settings[key]} {result.settings[key]}"
            for key in keys
            if key in self._settings and key not in self._columns and key in result.settings
        ]

    def _values(self, result: Measured, without: str = "") -> list[str]:
        return ["" if key == without else result.settings.get(key, "") for key in self._columns]

    @staticmethod
    def _add_row(
        table: Table,
        run: Sequence[str],
        values: Sequence[str],
        errors: Sequence[str],
        published: Sequence[str],
    ) -> None:
        cells = (_lines(run), *map(Text, values), _lines(errors), _lines(published))
        table.add_row(*cells)


def _lines(lines: Iterable[str]) -> Text:
    # Text, since a run's name may hold what rich reads as markup.
    return Text("\n".join(lines))


def _run(result: Measured) -> list[str]:
    notes = [result.run, result.date, "" if result.complete else "incomplete"]
    return [note for note in notes if note]


def _protocol(key: ResultKey) -> str:
    return ", ".join([key.protocol, *key.qualifiers])


def _differences(comparison: Comparison, errors: Sequence[MeasuredError | SeedSpread]) -> list[str]:
    """Return lines beside those of the errors: what is published, and how far ours is above."""
    if comparison.reference is None:
        return []
    return [
        "–"
        if (published := comparison.published_error(error)) is None
        else f"{published}: {comparison.difference(error)}"
        for error in errors
    ]


def _single_network_rows() -> list[tuple[str, ...]]:
    return [
        (
            result.network,
            protocol_words(result.protocol),
            str(result.top1_error or ""),
            str(result.top5_error or ""),
            result.citation,
        )
        for entry in lecture_table()
        for result in entry.instead
    ]


def _markdown_row(comparison: Comparison, num_errors: int) -> tuple[str, ...]:
    result, reference = comparison.result, comparison.reference
    published = [*([reference.errors] if reference else []), comparison.note]
    return (
        ", ".join(_run(result)),
        result.key.network,
        f"{result.key.training_data} {result.key.split}",
        _protocol(result.key),
        f"{result.counts.images:,}",
        *(*map(str, result.errors), "")[:num_errors],
        ", ".join(published),
        " / ".join(map(comparison.difference, result.errors)) if reference else "",
        comparison.reproduction.words if comparison.reproduction else "",
    )


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(map(markdown_text, cells))} |\n"

    return line(header) + line(["---"] * len(header)) + "".join(line(row) for row in rows)
