"""Shows a training's progress: live bars in a terminal, plain lines anywhere else."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table

from pipeline.evaluation.metrics import has_top5
from pipeline.launch.events import Event, Message, StepsReport, ValidationReport


class ProgressDisplay:
    """Shows events; a context manager, since a live display must be stopped."""

    def __init__(self, console: Console, num_classes: int | None = None) -> None:
        self._console = console
        self._has_top5 = has_top5(num_classes)
        self._started = time.monotonic()
        self._first_report: tuple[float, float] | None = None  # time, epochs done
        self._bars = Bars(
            TextColumn("{task.description:>6}"), BarColumn(), MofNCompleteColumn(), console=console
        )
        self._epoch: TaskID = self._bars.add_task("epoch", total=None)
        self._step: TaskID = self._bars.add_task("step", total=None)
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, event: Event) -> None:
        match event:
            case StepsReport():
                self._show_progress(event)
            case ValidationReport():
                self._bars.update(self._epoch, completed=event.epoch, total=event.epochs)
                top5 = f"  top-5 error {event.counts.top5_error:.2f} %" if self._has_top5 else ""
                self._console.print(
                    f"epoch {event.epoch}/{event.epochs}  {event.split} ({event.protocol}, "
                    f"{event.counts.images} images)  top-1 error {event.counts.top1_error:.2f} %"
                    f"{top5}",
                    highlight=False,
                    soft_wrap=True,
                )
            case Message(text=text):
                self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _show_progress(self, event: StepsReport) -> None:
        figures = {
            "loss": f"{event.loss:.4f}",
            "top-1 error": f"{event.top1_error:.2f} %",
            **({"top-5 error": f"{event.top5_error:.2f} %"} if self._has_top5 else {}),
            "images/s": f"{event.images_per_second:,.0f}",
            "waiting for data": f"{event.seconds_waiting:.1f} of {event.seconds:.1f} s",
            "learning rate": f"{event.learning_rate:.3g}",
            "time left": self._time_left(event),
        }
        if self._live:
            self._bars.update(self._epoch, completed=event.epoch, total=event.epochs)
            self._bars.update(self._step, completed=event.step, total=event.num_steps)
            table = Table.grid(padding=(0, 3))
            for _ in range(len(figures)):
                table.add_column()
            table.add_row(*(f"[dim]{name}[/]\n{value}" for name, value in figures.items()))
            self._live.update(Group(self._bars, table))
        else:
            line = "  ".join(f"{name} {value}" for name, value in figures.items())
            self._console.print(
                f"epoch {event.epoch + 1}/{event.epochs} step {event.step}/{event.num_steps}  "
                f"{line}",
                highlight=False,
                soft_wrap=True,
            )

    def _time_left(self, event: StepsReport) -> str:
        # At the speed of this process: a resumed training did its first epochs in an earlier one.
        done = event.epoch + event.step / event.num_steps
        now = time.monotonic()
        if self._first_report is None:
            self._first_report = (now, done)
            rate = done / (now - self._started) if done and not event.epoch else 0.0
        else:
            since, before = self._first_report
            rate = (done - before) / (now - since) if now > since else 0.0
        if rate <= 0:
            return ""
        seconds = round((event.epochs - done) / rate)
        hours, rest = divmod(seconds, 3600)
        return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
