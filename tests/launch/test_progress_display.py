"""What is shown of a training: plain lines in a pipe, bars in a terminal."""

import io
from dataclasses import replace

from rich.console import Console

from pipeline.evaluation.metrics import Counts
from pipeline.launch.events import Message, StepsReport, ValidationReport
from pipeline.launch.progress_display import ProgressDisplay

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
                 "images/s 1,234", "waiting for data 0.5 of 2.0 s", "time left"):  # fmt: skip
        assert part in lines[1]
    assert "top-1 error 20.00 %  top-5 error 10.00 %" in lines[3]
    assert "\x1b" not in "".join(lines)


def test_a_terminal_gets_bars_that_are_full_at_the_end_of_the_epoch() -> None:
    text = shown(is_terminal=True)
    assert "10/10" in text
    assert "2/4" in text


def test_top5_is_left_out_where_there_are_five_classes_or_fewer() -> None:
    for is_terminal in (False, True):
        assert "top-5" not in shown(is_terminal, num_classes=5)
        assert "top-5" in shown(is_terminal, num_classes=6)
