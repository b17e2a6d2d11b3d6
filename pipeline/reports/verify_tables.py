"""The table of a verified data set for a terminal."""

from collections.abc import Iterator

import numpy as np
from rich.table import Table

from pipeline.data.sources.verify import SplitReport, VerifyReport
from pipeline.reports.tables import titled_table

_MODES = {"RGB": "colour", "L": "grey"}


def verify_table(report: VerifyReport) -> Table:
    """Return what verification found, with a column for each split."""
    table = titled_table(f"{report.store.name}, {report.store.folder}")
    table.add_column("")
    for split in report.splits:
        table.add_column(split.name, justify="right")
    facts = [dict(_facts(split)) for split in report.splits]
    for name in dict.fromkeys(name for each in facts for name in each):
        table.add_row(name, *(each.get(name, "") for each in facts))
    return table


def verify_notes(report: VerifyReport) -> Iterator[str]:
    """Yield a line for each reason to leave out or treat images, and for each mistake."""
    for split in report.splits:
        for reason, count in sorted(split.left_out.items()):
            yield f"{split.name}: {count:,} left out: {reason}"
        for treatment, count in sorted(split.treated.items()):
            yield f"{split.name}: {count:,} treated at packing: {treatment}"
        yield from (f"wrong: {what}" for what in split.problems)
        if split.num_problems > len(split.problems):
            yield f"wrong: {split.num_problems - len(split.problems):,} more in {split.name}"


def _facts(split: SplitReport) -> Iterator[tuple[str, str]]:
    yield "images", f"{split.num_images:,}"
    yield "left out", f"{sum(split.left_out.values()):,}"
    yield "decoded just now", f"{split.num_decoded:,}"
    for mode, count in split.modes.most_common():
        yield f"decoded: {_MODES.get(mode, mode)}", f"{count:,}"
    yield "MB", f"{split.num_bytes / 1e6:,.1f}"
    if split.per_class.any():
        low, middle, high = np.quantile(split.per_class, [0, 0.5, 1])
        yield "images a class: fewest", f"{low:,.0f}"
        yield "images a class: median", f"{middle:,.0f}"
        yield "images a class: most", f"{high:,.0f}"
    if len(split.shorter_sides):
        sides = np.quantile(split.shorter_sides, [0, 0.05, 0.5, 0.95, 1])
        names = ("smallest", "5 % below", "median", "95 % below", "largest")
        for name, side in zip(names, sides, strict=True):
            yield f"shorter side: {name}", f"{side:,.0f}"
        yield "largest image", split.largest
    yield "wrong", f"{split.num_problems:,}"
