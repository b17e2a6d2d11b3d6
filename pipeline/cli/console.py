"""Output that all commands share: progress bars, plain lines, tables, errors."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import rich.console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.segment import Segment

from pipeline.runtime.credentials import without_credentials
from pipeline.runtime.errors import InterruptedByUserError, UserError, WorkerFailedError
from pipeline.runtime.plain_text import printable_lines


class Console(rich.console.Console):
    """Shows text that comes from data as text: none of its characters is a command to a terminal.

    All commands use it, for what they say, for tables, progress and errors.
    """

    def render(
        self,
        renderable: rich.console.RenderableType,
        options: rich.console.ConsoleOptions | None = None,
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable_lines(segment.text), segment.style)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Exit with one line on stderr for what went wrong; a user's mistake has exit code 2."""
    try:
        yield
    except KeyboardInterrupt:
        print("ilsvrc: interrupted", file=sys.stderr)
        sys.exit(InterruptedByUserError.exit_code)
    except (UserError, WorkerFailedError, InterruptedByUserError) as error:
        console = Console(stderr=True)
        console.print("[red]ilsvrc:[/]", end=" ")
        say(console, without_credentials(str(error)))
        sys.exit(error.exit_code)


@contextmanager
def progress(doing: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar; what is yielded moves it, to so many of so many."""
    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(doing, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def importing(console: Console) -> Iterator[None]:
    """Show in a terminal that the block imports torch or MLflow, which takes seconds."""
    from pipeline.launch.events import Phase
    from pipeline.launch.progress_display import ProgressDisplay

    with ProgressDisplay(console) as display:
        display.show(Phase("imports"))
        yield


@contextmanager
def transfer(doing: str) -> Iterator[Callable[[int, int], None]]:
    """Show bytes, bytes/s and the time left."""
    with transfers(doing) as (show,):
        yield show


@contextmanager
def transfers(*doing: str) -> Iterator[list[Callable[[int, int], None]]]:
    """Show transfers, one after the other, in one bar that starts with the first."""
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
    """Print `text` as it is: no markup, no line breaks."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def console_for_tables() -> Console:
    """Return a console as wide as the terminal; as wide as needed for a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=10_000)
