"""Tables of jobs show what is known, and nothing else."""

from dataclasses import replace

from rich.console import Console

from pipeline.reports.job_tables import job_table, jobs_table
from pipeline.submit.job_engine import State, SubmittedJob
from pipeline.tracking.queries import TrainingProgress

KNOWN = TrainingProgress(
    run_id="1a2b", status="RUNNING", epochs_done=12.5, epochs=120, top1_error=44.444,
    top5_error=19.876, images_per_second=2345.6, seconds_left=93_700.0,
)  # fmt: skip


def lines_of(table: object) -> list[str]:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return [line.strip() for line in capture.get().splitlines() if line.strip()]


def job(state: State, reason: str = "") -> SubmittedJob:
    return SubmittedJob("17", "resnet50-1a2b3c4d", state, reason)


def test_a_running_job_shows_its_progress() -> None:
    line = lines_of(jobs_table([job("running")], {"resnet50-1a2b3c4d": KNOWN}))[-1]
    assert line.split() == [
        "17", "resnet50-1a2b3c4d", "running", "12.50/120", "44.44", "19.88", "2,346",
        "1", "d", "2", "h",
    ]  # fmt: skip


def test_a_waiting_job_has_a_reason_and_no_speed() -> None:
    waiting = job("waiting", "Resources")
    line = lines_of(jobs_table([waiting], {"resnet50-1a2b3c4d": KNOWN}))[-1]
    assert line.split()[2:] == ["waiting", "12.50/120", "44.44", "19.88", "Resources"]


def test_of_five_classes_or_fewer_no_top5_error_is_shown() -> None:
    few = replace(KNOWN, has_top5=False)
    heading, _, line = lines_of(jobs_table([job("running")], {"resnet50-1a2b3c4d": few}))[1:]
    assert "top-1 error %" in heading
    assert "top-5" not in heading
    assert "19.88" not in line
    jobs = [job("running"), SubmittedJob("18", "other", "running", "")]
    mixed = lines_of(jobs_table(jobs, {"resnet50-1a2b3c4d": few, "other": KNOWN}))
    assert "19.88" not in mixed[-2]
    assert "19.88" in mixed[-1]
    assert not [line for line in lines_of(job_table(job("running"), few)) if "top-5" in line]


def test_unknown_figures_are_left_empty() -> None:
    assert lines_of(jobs_table([job("running")], {}))[-1].split()[2:] == ["running"]
    assert not [line for line in lines_of(job_table(job("running"), None)) if "epoch" in line]


def test_one_job_is_shown_with_a_line_for_each_fact() -> None:
    lines = lines_of(job_table(job("running"), KNOWN))
    assert "time left       1 d 2 h" in lines
    assert "MLflow run      1a2b" in lines
