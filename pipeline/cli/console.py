"""What all commands say, and how they show that they are at work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


@contextmanager
def progress(doing: str) -> Iterator[Callable[[int, int], None]]:
    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(doing, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def transfer(doing: str) -> Iterator[Callable[[int, int], None]]:
    """Show bytes, bytes/s and the time left."""
    with transfers(doing) as (show,):
        yield show


@contextmanager
def transfers(*doing: str) -> Iterator[list[Callable[[int, int], None]]]:
    """Show what is done one after the other, in one bar; the first is begun at once."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(doing[0], total=None)

        def show(what: str, done: int, total: int) -> None:
            if bars.tasks[0].description != what:
                bars.reset(task, description=what)
            bars.update(task, completed=done, total=total)

        yield [partial(show, what) for what in doing]


def say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def console_for_tables() -> Console:
    """As wide as the terminal; what goes to a file or a pipe is as wide as it needs to be."""
    console = Console()
    return console if console.is_terminal else Console(width=10_000)
