"""What is shown of a training: plain lines in a pipe, bars in a terminal."""

import io
import time
from dataclasses import replace

import pytest
from rich.console import Console

from pipeline.evaluation.metrics import Counts
from pipeline.launch import progress_display
from pipeline.launch.events import (
    BatchTaken,
    ImagesScored,
    Message,
    Phase,
    StepsReport,
    ValidationReport,
)
from pipeline.launch.progress_display import ProgressDisplay, fitting
from pipeline.launch.start_phases import StartPhases
from pipeline.launch.time_left import TimeLeft

STEP = StepsReport(
    epoch=1, epochs=4, step=5, num_steps=10, loss=0.5, top1_error=12.0, top5_error=3.0,
    learning_rate=0.01, gradient_norm=2.5, images_per_second=1234.0, seconds=2.0,
    seconds_waiting=0.5,
)  # fmt: skip
EVALUATED = ValidationReport(2, 4, "val", "center-256-224", Counts(40, 45, 50))


def shown(is_terminal: bool, num_classes: int | None = None) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=is_terminal, width=120)
    with ProgressDisplay(console, num_classes) as display:
        for event in (Message("run [mine]"), STEP, replace(STEP, step=10), EVALUATED):
            display.show(event)
    return out.getvalue()


def test_a_pipe_gets_one_line_per_event() -> None:
    lines = shown(is_terminal=False).splitlines()
    assert len(lines) == 4
    assert lines[0] == "run [mine]"
    for part in ("epoch 2/4 step 5/10", "loss 0.5000", "top-1 error 12.00 %", "top-5 error 3.00 %",
                 "images/s 1,234", "waiting for data 0.5 of 2.0 s"):  # fmt: skip
        assert part in lines[1]
    assert "time left" not in lines[1]  # no step is timed yet
    assert "top-1 error 20.00 %  top-5 error 10.00 %" in lines[3]
    assert "\x1b" not in "".join(lines)


def test_a_terminal_gets_bars_that_are_full_at_the_end_of_the_epoch() -> None:
    text = shown(is_terminal=True)
    assert "10/10" in text
    assert "2/4" in text


@pytest.mark.parametrize(("width", "left_out"), [
    (120, []), (80, ["waiting for data"]), (70, ["waiting for data", "learning rate"]),
    (40, ["waiting for data", "learning rate", "top-5 error", "images/s"]),
])  # fmt: skip
def test_a_narrow_terminal_gets_fewer_figures_and_no_broken_ones(
    width: int, left_out: list[str]
) -> None:
    figures = {
        "loss": "0.5000", "top-1 error": "12.00 %", "top-5 error": "3.00 %", "images/s": "1,234",
        "waiting for data": "0.5 of 2.0 s", "learning rate": "0.01", "time left": "1:02:03",
    }  # fmt: skip
    assert [name for name in figures if name not in fitting(figures, width)] == sorted(
        left_out, key=list(figures).index
    )
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width)
    with ProgressDisplay(console, None) as display:
        display.show(STEP)
    assert "loss" in out.getvalue()
    assert "waiting\n" not in out.getvalue()


def test_top5_is_left_out_where_there_are_five_classes_or_fewer() -> None:
    for is_terminal in (False, True):
        assert "top-5" not in shown(is_terminal, num_classes=5)
        assert "top-5" in shown(is_terminal, num_classes=6)


class Clock:
    """A clock that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_the_phases_of_a_start_are_timed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, phases = Clock(monkeypatch), StartPhases()
    for name, seconds in {"checks": 0.5, "Ray": 14.2, "workers": 8.0}.items():
        phases.begin(name)
        clock.now += seconds
    assert phases.line() == "starting: checks 0.5 s, Ray 14.2 s, workers 8.0 s"
    clock.now += 1
    assert phases.end() == "started in 23.7 s: checks 0.5 s, Ray 14.2 s, workers 9.0 s"
    assert phases.end() == ""  # a second batch is no start


def test_the_start_is_summed_up_when_the_first_batch_comes() -> None:
    out = io.StringIO()
    with ProgressDisplay(Console(file=out, width=120)) as display:
        display.show(Phase("checks"))
        display.show(Phase("data"))
        display.show(BatchTaken(0, 4, 0, 10, 1, 2))
        display.show(BatchTaken(0, 4, 0, 10, 2, 2))
    (line,) = out.getvalue().splitlines()
    assert line.startswith("started in ")
    assert "checks" in line
    assert "data" in line


def test_a_terminal_names_the_phase_the_batch_and_the_images_at_hand() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with ProgressDisplay(console) as display:
        for event, text in {
            Phase("workers"): "starting: workers 0.",
            BatchTaken(0, 4, 3, 10, 1, 2): "epoch 1/4 step 3/10, batch 1 of 2 of the next",
            ImagesScored("val", 1200, 50_000, 81.5): "val: 1,200 of 50,000 images, 81.5 per second",
        }.items():
            display.show(event)
            with console.capture() as now:
                console.print(display._render())
            assert text in now.get()


def test_a_log_gets_a_line_now_and_then_where_nothing_else_is_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress_display, "_SECONDS_BETWEEN_LINES", 0.0)
    out = io.StringIO()
    with ProgressDisplay(Console(file=out, width=120)) as display:
        display.show(Phase("workers"))
        deadline = time.monotonic() + 60
        while "starting: workers" not in out.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        display.show(BatchTaken(0, 4, 3, 10, 1, 2))
        while "epoch 1/4 step 3/10" not in out.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "starting: workers" in out.getvalue()
    assert "epoch 1/4 step 3/10, batch 1 of 2" in out.getvalue()


def test_the_time_left_ignores_the_start_and_is_blank_until_three_steps_are_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, left = Clock(monkeypatch), TimeLeft()
    left.note(0, 0, 10)  # the first batch
    clock.now += 100  # what the first step prepares
    left.note(0, 1, 10)
    for step in (2, 3):
        clock.now += 2
        left.note(0, step, 10)
        assert left.until(epochs=4) == ""
    clock.now += 2
    left.note(0, 4, 10)
    assert left.until(epochs=4) == "0:01:12"  # 36 steps of 2 s


def test_the_time_left_of_a_resumed_training_counts_only_its_own_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, left = Clock(monkeypatch), TimeLeft()
    for step in (5, 6, 9):
        left.note(2, step, 10)
        clock.now += 30
    assert left.until(epochs=3) == "0:00:10"
