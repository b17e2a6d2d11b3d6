"""The common style of the tables in a terminal."""

from collections.abc import Iterable

from rich import box
from rich.table import Table


def titled_table(
    title: str,
    text: Iterable[str] = (),
    numbers: Iterable[str] = (),
    *,
    leading: int = 0,
    padding: int | tuple[int, int] = (0, 1),
) -> Table:
    """Return a table with columns of text, then of numbers, which are right-aligned.

    `leading` is the lines between rows, `padding` that of cells.
    """
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        leading=leading,
        padding=padding,
    )
    # Folded where there is no room: two names cut to their first letters may be the same.
    for heading in text:
        table.add_column(heading, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right", overflow="fold")
    return table
