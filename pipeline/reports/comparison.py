"""Measured results beside published ones of the same key, as tables for a terminal or a page.

A number of another key never stands beside a result: the cell names the nearest one and how it
differs. The lecture's benchmark table is separate, with what each of its numbers is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from pipeline.reports.tables import titled_table
from pipeline.results.comparability import (
    difference,
    nearest,
    on_split,
    reference_result,
    results_of_others,
)
from pipeline.results.measured import Measured, MeasuredError
from pipeline.results.published import Published, ResultKey, lecture_table, protocol_words
from pipeline.results.reproduction import Reproduction, check_reproduction

_LECTURE = "The lecture's table: no number here is of one network on one crop"
_SINGLE_NETWORKS = "One network on the validation set: what a run compares with"


@dataclass(frozen=True)
class Comparison:
    """A measured result, and the published one of the same key (`reference`) if there is one.

    `note` is the source of the reference, or why there is none, in one line or more.
    """

    result: Measured
    reference: Published | None
    reproduction: Reproduction | None
    note: str

    def published_error(self, error: MeasuredError) -> float | None:
        """Return the reference's error of the same name, if published."""
        return self.reference.error(error.name) if self.reference else None

    def difference(self, error: MeasuredError) -> str:
        """Return how many points `error` is above the published one; "–" if that is unknown."""
        published = self.published_error(error)
        return "–" if published is None else f"{error.value - published:+.2f}".replace("-", "−")


def compare(result: Measured) -> Comparison:
    reproduction = check_reproduction(result)
    reference = reproduction.reference if reproduction else reference_result(result.key)
    note = _source(reference, result.counts.images) if reference else _nearest_note(result.key)
    return Comparison(result, reference, reproduction, note)


def comparison_tables(results: Sequence[Measured]) -> list[Table]:
    """Return the results beside the published ones, then the lecture's table in two parts.

    They fit into 80 columns.
    """
    measured = titled_table("Results, errors in %", leading=1)
    measured.add_column("Run", max_width=23, overflow="fold")
    measured.add_column("Error (95 % interval)", no_wrap=True)
    measured.add_column("Published", ratio=1)
    for comparison in map(compare, results):
        result = comparison.result
        errors = [f"{error.name} {error}" for error in result.errors]
        measured.add_row(
            _lines(_run_cell(result)), _lines(errors), _lines(_published_cell(comparison))
        )

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
    return [measured, lecture, single]


def comparison_markdown(results: Sequence[Measured]) -> str:
    """Return the tables of `comparison_tables` as Markdown, with a column for each quantity."""
    measured = _markdown(
        (
            "Run",
            "Network",
            "Data",
            "Protocol",
            "Images",
            "Top-1 error, % (95 %)",
            "Top-5 error, % (95 %)",
            "Published",
            "Difference",
            "Verdict",
        ),
        (_markdown_row(compare(result)) for result in results),
    )
    lecture = _markdown(
        ("Shown as", "Top-5 error, %", "What it is"),
        ((entry.name, f"{entry.top5_error:g}", entry.meaning) for entry in lecture_table()),
    )
    single = _markdown(
        ("Network", "Protocol", "Top-1 error, %", "Top-5 error, %", "Source"),
        _single_network_rows(),
    )
    return f"{measured}\n{_LECTURE}:\n\n{lecture}\n{_SINGLE_NETWORKS}:\n\n{single}"


def _lines(lines: Iterable[str]) -> Text:
    # Text, since a run's name may hold what rich reads as markup.
    return Text("\n".join(lines))


def _run_cell(result: Measured) -> list[str]:
    key, images = result.key, f"{result.counts.images:,} images"
    return [*_run(result), key.network, f"{key.training_data} {key.split}", _protocol(key), images]


def _run(result: Measured) -> list[str]:
    notes = [result.run, result.date, "" if result.complete else "incomplete"]
    return [note for note in notes if note]


def _protocol(key: ResultKey) -> str:
    return ", ".join([key.protocol, *key.qualifiers])


def _published_cell(comparison: Comparison) -> list[str]:
    """Return the lines of the published cell; the first two are beside top-1 and top-5."""
    lines = []
    if comparison.reference:
        for error in comparison.result.errors:
            published = comparison.published_error(error)
            known = published is not None
            lines.append(f"{published}: {comparison.difference(error)}" if known else "–")
    if comparison.reproduction:
        lines.append(comparison.reproduction.words)
    return [*lines, comparison.note]


def _source(published: Published, images: int) -> str:
    notes = [published.citation]
    if published.images not in (None, images):
        notes.append(f"on {published.images:,} images")
    if test := on_split(published, "test"):
        notes.append(f"on test it has {test.errors}")
    return "; ".join(notes)


def _nearest_note(key: ResultKey) -> str:
    """Say why there is no reference, and what there is instead."""
    near = nearest(key)
    if near:
        return (
            f"not comparable with the nearest, {near.errors} of {near.citation}: "
            f"{difference(near.key, key)}"
        )
    others = ",\n".join(f"{other.errors} {other.network}" for other in results_of_others(key))
    return f"none for this network; others:\n{others}" if others else "none"


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


def _markdown_row(comparison: Comparison) -> tuple[str, ...]:
    result, reference = comparison.result, comparison.reference
    published = [*([reference.errors] if reference else []), " ".join(comparison.note.split())]
    return (
        ", ".join(_run(result)),
        result.key.network,
        f"{result.key.training_data} {result.key.split}",
        _protocol(result.key),
        f"{result.counts.images:,}",
        *(*map(str, result.errors), "")[:2],
        ", ".join(published),
        " / ".join(map(comparison.difference, result.errors)) if reference else "",
        comparison.reproduction.words if comparison.reproduction else "",
    )


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"

    return line(header) + line(["---"] * len(header)) + "".join(line(row) for row in rows)
