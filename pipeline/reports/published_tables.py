"""Tables of the published results for a terminal."""

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from pipeline.reports.tables import titled_table
from pipeline.results.published import Published, protocol_words, published
from pipeline.results.released import reproductions
from pipeline.runtime.errors import UserError
from pipeline.runtime.names import suggest


def results_of(network: str | None) -> list[Published]:
    """Return the published results of a network and of ensembles with it; all of them if None.

    Raises `UserError` that lists the networks with results.
    """
    found = [r for r in published() if network is None or network in _names(r)]
    if not found:
        known = sorted({result.network for result in published() if " " not in result.network})
        raise UserError(f"nothing is published of '{network}'; {suggest(network or '', known)}")
    return found


def published_tables(results: Iterable[Published]) -> list[Table]:
    """Return one table for each data set, split and protocol, in 80 columns; errors in percent."""
    tables: dict[tuple[str, str, str], list[Published]] = {}
    for result in results:
        key = (result.training_data, result.split, result.protocol)
        tables.setdefault(key, []).append(result)
    return [_table(*key, rows) for key, rows in tables.items()]


def released_lines(results: Iterable[Published]) -> list[str]:
    """Say which released files reach which of the results, with the commands; a line each."""
    chosen = list(results)
    lines: list[str] = []
    for each in reproductions():
        if each.result not in chosen:
            continue
        title = f"{each.file.file} of {each.file.publisher}, {each.file.page}"
        if title not in lines:
            lines += ["", title, f"  sees {each.file.sees}"]
            lines += [f"  but for: {each.file.differs}"] if each.file.differs else []
        lines += [f"  {each.result.errors} of {each.result.citation}", f"    {each.command}"]
    return ["Released weights that reach them", *lines] if lines else []


def _names(result: Published) -> set[str]:
    members = [name for part in result.network.split(", ") for name in part.split(" and ")]
    return {result.network, *members, *(member.partition(" ")[0] for member in result.members)}


def _table(data: str, split: str, protocol: str, rows: list[Published]) -> Table:
    table = titled_table(f"{data} {split}, {protocol}: {protocol_words(protocol)}")
    table.add_column("Network", max_width=24, overflow="fold")
    table.add_column("Top-1", justify="right", no_wrap=True)
    table.add_column("Top-5", justify="right", no_wrap=True)
    table.add_column("Source", ratio=1)
    for row in rows:
        errors = ("" if error is None else f"{error}" for error in (row.top1_error, row.top5_error))
        table.add_row(Text(_network(row)), *errors, Text(_source(row)))
    return table


def _network(row: Published) -> str:
    if row.ensemble_size == 1:
        return row.network
    return f"{row.ensemble_size or 'several'} × {row.network}"


def _source(row: Published) -> str:
    notes = [row.citation]
    if len(set(row.members)) > 1:
        notes.append(row.composition)
    if row.extra_data != "none":
        notes.append(f"extra data {row.extra_data}")
    if row.images not in (None, 50_000, 100_000):
        notes.append(f"{row.images:,} images")
    if row.certainty == "computed":
        notes.append("computed here")
    return "; ".join(notes)
