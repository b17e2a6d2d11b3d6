"""Shows a training's progress: live bars in a terminal, plain lines anywhere else.

No more than 30 seconds pass without a line, from the first second on.
"""

import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from pipeline.evaluation.metrics import has_top5
from pipeline.launch.events import (
    BatchTaken,
    Event,
    ImagesScored,
    Message,
    Phase,
    StepsReport,
    ValidationReport,
    WorkerHung,
)
from pipeline.launch.start_phases import StartPhases
from pipeline.launch.time_left import TimeLeft

_SECONDS_BETWEEN_LINES = 30.0
_GAP = 3  # between figures, in columns of the terminal
# Left out first where a terminal is too narrow.
_LEAST_NEEDED = ("waiting for data", "learning rate", "top-5 error", "images/s", "top-1 error")


class ProgressDisplay:
    """Shows events; a context manager, since a live display must be stopped."""

    def __init__(self, console: Console, num_classes: int | None = None) -> None:
        self._console = console
        self._has_top5 = has_top5(num_classes)
        self._phases, self._time_left = StartPhases(), TimeLeft()
        self._now, self._last_line = "", time.monotonic()
        self._figures: dict[str, str] = {}
        self._bars = Bars(
            TextColumn("{task.description:>6}"), BarColumn(), MofNCompleteColumn(), console=console
        )
        self._epoch: TaskID = self._bars.add_task("epoch", total=None)
        self._step: TaskID = self._bars.add_task("step", total=None)
        self._live = (
            Live(console=console, refresh_per_second=4, get_renderable=self._render)
            if console.is_terminal
            else None
        )
        self._is_over = threading.Event()

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        else:
            threading.Thread(target=self._print_now_and_then, name="lines", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def show(self, event: Event) -> None:
        match event:
            case Phase(name=name):
                self._phases.begin(name)
            case BatchTaken() | StepsReport() | ImagesScored() | ValidationReport():
                if summary := self._phases.end():
                    self._print(summary)
        match event:
            case BatchTaken():
                self._time_left.note(event.epoch, event.step, event.num_steps)
                self._move_bars(event.epoch, event.epochs, event.step, event.num_steps)
                self._now = _batch_line(event)
            case StepsReport():
                self._show_steps(event)
            case ImagesScored():
                self._now = f"{event.split}: {event.done:,} of {event.images:,} images"
                if event.done:
                    self._now += f", {event.images_per_second:,.1f} per second"
            case ValidationReport():
                self._now = ""
                self._bars.update(self._epoch, completed=event.epoch, total=event.epochs)
                top5 = f"  top-5 error {event.counts.top5_error:.2f} %" if self._has_top5 else ""
                self._print(
                    f"epoch {event.epoch}/{event.epochs}  {event.split} ({event.protocol}, "
                    f"{event.counts.images} images)  top-1 error {event.counts.top1_error:.2f} %"
                    f"{top5}"
                )
            case Message(text=text):
                self._print(text)
            case WorkerHung():  # the command's own process, which ends now
                self._stop()
                self._print(
                    f"no batch was taken for {event.seconds:g} s; this process ends, its stacks "
                    f"are in {event.folder}; the same command goes on from what is saved"
                )

    def _show_steps(self, event: StepsReport) -> None:
        self._time_left.note(event.epoch, event.step, event.num_steps)
        self._figures = {
            "loss": f"{event.loss:.4f}",
            "top-1 error": f"{event.top1_error:.2f} %",
            **({"top-5 error": f"{event.top5_error:.2f} %"} if self._has_top5 else {}),
            "images/s": f"{event.images_per_second:,.0f}",
            "waiting for data": f"{event.seconds_waiting:.1f} of {event.seconds:.1f} s",
            "learning rate": f"{event.learning_rate:.3g}",
        }
        if time_left := self._time_left.until(event.epochs):
            self._figures["time left"] = time_left
        self._now = ""
        self._move_bars(event.epoch, event.epochs, event.step, event.num_steps)
        if not self._live:
            line = "  ".join(f"{name} {value}" for name, value in self._figures.items())
            self._print(
                f"epoch {event.epoch + 1}/{event.epochs} step {event.step}/{event.num_steps}  "
                f"{line}"
            )

    def _move_bars(self, epoch: int, epochs: int, step: int, num_steps: int) -> None:
        self._bars.update(self._epoch, completed=epoch, total=epochs)
        self._bars.update(self._step, completed=step, total=num_steps)

    def _render(self) -> RenderableType:
        """Return what a terminal shows below the lines; called four times a second."""
        parts: list[RenderableType] = []
        if self._phases.current:
            parts.append(Text(self._phases.line()))
        elif self._bars.tasks[self._epoch].total is not None:
            parts.append(self._bars)
        if figures := fitting(self._figures, self._console.width):
            table = Table.grid(padding=(0, _GAP))
            for _ in figures:
                table.add_column(no_wrap=True)
            table.add_row(*(f"[dim]{name}[/]\n{value}" for name, value in figures.items()))
            parts.append(table)
        if self._now:
            parts.append(Text(self._now, style="dim"))
        return Group(*parts)

    def _print_now_and_then(self) -> None:
        while not self._is_over.wait(0.5):
            doing = self._phases.line() if self._phases.current else self._now
            if doing and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
                self._print(doing)

    def _print(self, text: str) -> None:
        self._last_line = time.monotonic()
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _stop(self) -> None:
        self._is_over.set()
        if self._live:
            self._live.stop()


def fitting(figures: Mapping[str, str], width: int) -> dict[str, str]:
    """Return the figures that fit a terminal of so many columns, the most needed ones."""
    kept = dict(figures)
    for name in _LEAST_NEEDED:
        if sum(max(len(name), len(text)) + _GAP for name, text in kept.items()) <= width:
            break
        kept.pop(name, None)
    return kept


def _batch_line(event: BatchTaken) -> str:
    step = f"epoch {event.epoch + 1}/{event.epochs} step {event.step}/{event.num_steps}"
    return f"{step}, batch {event.batch} of {event.num_batches} of the next"
