"""Measured results beside published ones of the same key, as tables for a terminal or a page.

A number of another key never stands beside a result: the cell names the nearest and says in what
it differs. The lecture's benchmark table stands apart, with what each of its numbers is.
"""

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from pipeline.evaluation.metrics import Counts
from pipeline.reports.tables import titled_table
from pipeline.results.comparability import like_for_like, nearest, neighbours, on_test, refusal
from pipeline.results.measured import Measured, errors_of
from pipeline.results.published import Published, ResultKey, lecture_table, protocol_words
from pipeline.results.verdict import error_named, verdict

_LECTURE = "The lecture's table: no number here is of one network on one crop"
_INSTEAD = "One network on the validation set: what a run may be held against"


def comparison_tables(results: Sequence[Measured]) -> list[Table]:
    """Return the results beside the published ones, then the lecture's table in two parts.

    They fit 80 columns.
    """
    measured = titled_table("Results, errors in %", leading=1)
    measured.add_column("Run", max_width=23, overflow="fold")
    measured.add_column("Error (95 % interval)", no_wrap=True)
    measured.add_column("Published", ratio=1)
    for result in results:
        measured.add_row(
            _lines(_subject(result)), _lines(_measured(result)), _lines(_beside(result))
        )

    lecture = titled_table(_LECTURE, leading=1)
    lecture.add_column("Shown as", no_wrap=True)
    lecture.add_column("Top-5", justify="right")
    lecture.add_column("What it is", ratio=1)
    for entry in lecture_table():
        lecture.add_row(entry.name, f"{entry.top5_error:g}", Text(entry.meaning))

    instead = titled_table(_INSTEAD, leading=1)
    instead.add_column("Network", no_wrap=True)
    instead.add_column("Protocol", ratio=1)
    instead.add_column("Top-1", justify="right", no_wrap=True)
    instead.add_column("Top-5", justify="right", no_wrap=True)
    instead.add_column("Source", ratio=1)
    for row in _instead_rows():
        instead.add_row(*(Text(cell) for cell in row))
    return [measured, lecture, instead]


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
        (_markdown_row(result) for result in results),
    )
    lecture = _markdown(
        ("Shown as", "Top-5 error, %", "What it is"),
        ((entry.name, f"{entry.top5_error:g}", entry.meaning) for entry in lecture_table()),
    )
    instead = _markdown(
        ("Network", "Protocol", "Top-1 error, %", "Top-5 error, %", "Source"), _instead_rows()
    )
    return f"{measured}\n{_LECTURE}:\n\n{lecture}\n{_INSTEAD}:\n\n{instead}"


def _lines(lines: Iterable[str]) -> Text:
    # Text, since a run's name may hold what rich reads as markup.
    return Text("\n".join(lines))


def _subject(result: Measured) -> list[str]:
    key = result.key
    images = [f"{result.counts.images:,} images"] if result.counts else []
    return [*_run(result), key.network, f"{key.training_data} {key.split}", _protocol(key), *images]


def _run(result: Measured) -> list[str]:
    notes = [result.run, result.date, "" if result.complete else "incomplete"]
    return [note for note in notes if note]


def _protocol(key: ResultKey) -> str:
    parts = [key.protocol]
    if key.ensemble_size != 1:
        parts.append(f"ensemble of {key.ensemble_size}")
    if key.extra_data != "none":
        parts.append(f"extra data {key.extra_data}")
    return ", ".join(parts)


def _measured(result: Measured) -> list[str]:
    if result.counts is None:
        return []
    return [f"{error.name} {error}" for error in errors_of(result.counts)]


def _beside(result: Measured) -> list[str]:
    """Return the published cell; the first two lines stand beside top-1 and top-5."""
    same = like_for_like(result.key)
    if same is None:
        return _unlike(result.key)
    if result.counts is None:
        return [same.errors, _source(same, None)]
    found = verdict(result)
    against = found.against if found else same
    lines = [
        f"{theirs}: {difference}" if theirs is not None else "–"
        for theirs, difference in _differences(result.counts, against)
    ]
    return [*lines, *([found.words] if found else []), _source(against, result.counts)]


def beside_words(result: Measured) -> str:
    """Return what stands beside a result besides the numbers: the source, or why there is none."""
    found = verdict(result)
    same = found.against if found else like_for_like(result.key)
    if same:
        return _source(same, result.counts)
    first, *others = _unlike(result.key)
    return " ".join([first, ", ".join(others)]).rstrip()


def _differences(counts: Counts, published: Published) -> list[tuple[float | None, str]]:
    """Return the published top-1 and top-5 error, and by how many points ours is above it."""
    pairs = []
    for error in errors_of(counts):
        theirs = error_named(published, error.name)
        ours_above = "" if theirs is None else f"{error.value - theirs:+.2f}".replace("-", "−")
        pairs.append((theirs, ours_above))
    return pairs


def _source(published: Published, counts: Counts | None) -> str:
    notes = [published.citation]
    if counts and published.images not in (None, counts.images):
        notes.append(f"on {published.images:,} images")
    if test := on_test(published):
        notes.append(f"on test it has {test.errors}")
    return "; ".join(notes)


def _unlike(key: ResultKey) -> list[str]:
    """Say, in one line or more, what there is where nothing published is like for like."""
    near = nearest(key)
    if near is not None:
        return [refusal(key, near) or ""]
    others = [f"{other.errors} {other.network}" for other in neighbours(key)]
    return ["none for this network; others:", *others] if others else ["none"]


def _instead_rows() -> list[tuple[str, ...]]:
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


def _markdown_row(result: Measured) -> tuple[str, ...]:
    key, counts, found = result.key, result.counts, verdict(result)
    same = found.against if found else like_for_like(key)
    measured = [str(error) for error in errors_of(counts)] if counts else ["", ""]
    differences = _differences(counts, same) if counts and same else []
    beside = ", ".join([*([same.errors] if same else []), beside_words(result)])
    return (
        ", ".join(_run(result)),
        key.network,
        f"{key.training_data} {key.split}",
        _protocol(key),
        f"{counts.images:,}" if counts else "",
        *measured,
        beside,
        " / ".join(difference or "–" for _, difference in differences),
        found.words if found else "",
    )


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"

    return line(header) + line(["---"] * len(header)) + "".join(line(row) for row in rows)
