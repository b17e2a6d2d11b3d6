"""Tables of submitted trainings for a terminal: the engine's state beside tracked metrics."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from rich.table import Table
from rich.text import Text

from pipeline.reports.tables import titled_table
from pipeline.tracking.queries import TrainingProgress

_TOP5 = "top-5 error %"
_FIGURES = ("epoch", "top-1 error %", _TOP5, "images/s", "time left")
_COLORS = {"running": "green", "failed": "red", "waiting": "yellow"}


class JobStatus(Protocol):
    """The state of a job, as an engine reports it."""

    @property
    def id(self) -> str: ...
    @property
    def run(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def reason(self) -> str: ...


def jobs_table(jobs: Iterable[JobStatus], progress: Mapping[str, TrainingProgress]) -> Table:
    """Return a row for each job; unknown figures are left empty.

    There is no column for top-5 where all networks tell five classes or fewer apart.
    """
    is_left_out = progress and not any(each.has_top5 for each in progress.values())
    shown = [name for name in _FIGURES if not (is_left_out and name == _TOP5)]
    table = titled_table("jobs", ("job", "run", "state"), shown)
    table.add_column("reason")
    for job in jobs:
        figures = _figures(_current(job, progress.get(job.run)))
        row = [figures[name] for name in shown]
        table.add_row(job.id, job.run, _state(job), *row, Text(job.reason))
    return table


def job_table(job: JobStatus, progress: TrainingProgress | None) -> Table:
    """Return a row for each fact of one job."""
    table = titled_table(f"job {job.id}", ("", ""))
    facts = {"run": job.run, "MLflow run": progress.run_id if progress else ""}
    table.add_row("state", _state(job))
    for name, fact in (facts | _figures(_current(job, progress)) | {"reason": job.reason}).items():
        if fact:
            table.add_row(name, Text(fact))
    return table


def _state(job: JobStatus) -> Text:
    return Text(job.state, _COLORS.get(job.state, ""))


def _current(job: JobStatus, progress: TrainingProgress | None) -> TrainingProgress | None:
    # The metrics of a job that doesn't run are of its last time; of these the speed is left out.
    return progress if job.state == "running" or not progress else progress.without_speed()


def _figures(progress: TrainingProgress | None) -> dict[str, str]:
    if progress is None:
        return dict.fromkeys(_FIGURES, "")
    figures = (
        f"{progress.epochs_done:.2f}/{progress.epochs}",
        _number(progress.top1_error, ".2f"),
        _number(progress.top5_error, ".2f") if progress.has_top5 else "",
        _number(progress.images_per_second, ",.0f"),
        _duration(progress.seconds_left),
    )
    return dict(zip(_FIGURES, figures, strict=True))


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    days, rest = divmod(round(seconds), 86_400)
    hours, rest = divmod(rest, 3600)
    return f"{days} d {hours} h" if days else f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
