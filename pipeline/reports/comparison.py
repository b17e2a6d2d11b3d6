"""Measured results beside published ones of the same key, as tables for a terminal or a page.

A number of another key never stands beside a result: the cell names the nearest and says in what
it differs. The lecture's benchmark table stands apart, with what each of its numbers is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from pipeline.errors import UserError
from pipeline.evaluation.metrics import Counts, Interval, wilson_interval
from pipeline.published import (
    Published,
    ResultKey,
    lecture_table,
    like_for_like,
    nearest,
    neighbours,
    protocol_words,
    refusal,
)
from pipeline.reports.tables import titled_table

_LECTURE = "The lecture's table: no number here is of one network on one crop"
_INSTEAD = "One network on the validation set: what a run may be held against"


@dataclass(frozen=True)
class Measured:
    """The result of one run on one split by one protocol; `counts` is None before it is measured.

    `complete` says that the training has reached its end.
    """

    key: ResultKey
    counts: Counts | None = None
    run: str = ""
    run_id: str = ""
    date: str = ""
    complete: bool = True


def measured_from_run(
    params: Mapping[str, str],
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    *,
    run_id: str,
    date: str,
    complete: bool,
) -> list[Measured]:
    """Return what a tracked run measured: one result for each split and protocol.

    An evaluation that was tracked only in part is left out. Raises `UserError` for a run that has
    evaluations but does not say of which network or data.
    """
    run = tags.get("mlflow.runName", run_id)
    results = []
    for metric in metrics:
        match metric.split("/"):
            case ["eval", split, protocol, "images"]:
                prefix = f"eval/{split}/{protocol}"
            case _:
                continue
        if f"{prefix}/top1_hits" not in metrics or f"{prefix}/top5_hits" not in metrics:
            continue
        try:
            network = params["recipe.network.name"]
            data = tags.get("dataset.name") or params["recipe.data.name"]
        except KeyError as error:
            raise UserError(
                f"run '{run}': its param {error} is missing; delete the run or compare another "
                f"experiment"
            ) from None
        counts = Counts(
            top1_hits=int(metrics[f"{prefix}/top1_hits"]),
            top5_hits=int(metrics[f"{prefix}/top5_hits"]),
            images=int(metrics[metric]),
        )
        extra_data = tags.get("dataset.extra", "none")
        key = ResultKey(network, data, split, protocol, extra_data=extra_data)
        results.append(Measured(key, counts, run, run_id, date, complete))
    return results


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
    top1, top5 = _errors(result.counts, None)
    return [f"top-1 {top1.measured}", f"top-5 {top5.measured}"]


@dataclass(frozen=True)
class _Error:
    """A measured top-k error and the published one of the same key, in percent."""

    value: float
    interval: Interval
    published: float | None

    @property
    def measured(self) -> str:
        return f"{self.value:.2f} ({self.interval.low:.2f}–{self.interval.high:.2f})"

    @property
    def difference(self) -> str:
        if self.published is None:
            return ""
        place = "inside" if self.published in self.interval else "outside"
        return f"{self.value - self.published:+.2f}, {place}".replace("-", "−")


def _errors(counts: Counts, published: Published | None) -> tuple[_Error, _Error]:
    def error(value: float, hits: int, other: float | None) -> _Error:
        return _Error(value, wilson_interval(counts.images - hits, counts.images), other)

    return (
        error(counts.top1_error, counts.top1_hits, published.top1_error if published else None),
        error(counts.top5_error, counts.top5_hits, published.top5_error if published else None),
    )


def _beside(result: Measured) -> list[str]:
    """Return the published cell; the first two lines stand beside top-1 and top-5."""
    same = like_for_like(result.key)
    if same is None:
        return _unlike(result.key)
    if result.counts is None:
        return [same.errors, _source(same, None)]
    lines = [
        "–" if error.published is None else f"{error.published}: {error.difference}"
        for error in _errors(result.counts, same)
    ]
    return [*lines, _source(same, result.counts)]


def _source(published: Published, counts: Counts | None) -> str:
    if counts is None or published.images in (None, counts.images):
        return published.citation
    return f"{published.citation}; on {published.images:,} images"


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
    key, counts, same = result.key, result.counts, like_for_like(result.key)
    errors = _errors(counts, same) if counts else ()
    measured = [error.measured for error in errors] or ["", ""]
    if same:
        beside = f"{same.errors}, {_source(same, counts)}"
    else:
        first, *others = _unlike(key)
        beside = " ".join([first, ", ".join(others)]).rstrip()
    return (
        ", ".join(_run(result)),
        key.network,
        f"{key.training_data} {key.split}",
        _protocol(key),
        f"{counts.images:,}" if counts else "",
        *measured,
        beside,
        " / ".join(error.difference or "–" for error in errors) if same else "",
    )


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"

    return line(header) + line(["---"] * len(header)) + "".join(line(row) for row in rows)
