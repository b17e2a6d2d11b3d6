"""The common style of the tables in a terminal."""

from rich import box
from rich.table import Table


def titled_table(title: str, *, leading: int = 0, padding: int | tuple[int, int] = (0, 1)) -> Table:
    """Return an empty table; `leading` is the lines between rows, `padding` that of cells."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        leading=leading,
        padding=padding,
    )
