"""The frame of the check: sections in processes of their own, a line a result, a table at the end.

A GPU that has failed once fails in all that its process does afterwards, and a call that hangs
can't be interrupted. A process can be ended, and the next one starts anew.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

Figures = dict[str, float | int | str]

_TIME_IS_OVER = "the time is over"


@dataclass(frozen=True)
class Setting:
    """Where to check, and how much: `small` is enough to see that the check itself runs.

    `folder` holds what the sections share; `has_dali`: whether DALI can be imported.
    """

    device: torch.device
    small: bool
    folder: Path
    has_dali: bool

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"


@dataclass(frozen=True)
class Measured:
    """What a case found; `holds` is None where nothing had to hold."""

    figures: Figures
    holds: bool | None = None


@dataclass(frozen=True)
class Case:
    """One thing to check or to measure."""

    name: str
    run: Callable[[], Measured]


@dataclass(frozen=True)
class Section:
    """Cases that share what their generator sets up, and the seconds they may take together."""

    name: str
    cases: Callable[[Setting], Iterator[Case]]
    seconds: float
    needs_dali: bool = False


@dataclass(frozen=True)
class Outcome:
    """A result line: `verdict` is "holds", "FAILS", "measured", "skipped" or "ERROR"."""

    section: str
    case: str
    verdict: str
    figures: Figures
    seconds: float


def run_sections(
    sections: Sequence[Section], setting: Setting, seconds: float
) -> Iterator[Outcome]:
    """Run `sections` one after the other for at most `seconds`, and yield outcomes as they come."""
    end = time.monotonic() + seconds
    for section in sections:
        left = end - time.monotonic()
        if section.needs_dali and not setting.has_dali:
            yield Outcome(section.name, "all", "skipped", {"why": "no DALI here"}, 0.0)
        elif left <= 0:
            yield Outcome(section.name, "all", "skipped", {"why": _TIME_IS_OVER}, 0.0)
        else:
            yield from _run_section(section, setting, left)


def _run_section(section: Section, setting: Setting, left: float) -> Iterator[Outcome]:
    """Run `section` in a process, for its own limit of time or for what is `left` of all."""
    # Forked: importing torch again would take seconds. CUDA starts in the sections alone.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(section, setting, sender))
    started = time.monotonic()
    process.start()
    sender.close()
    assert process.pid
    end, begun = started + min(section.seconds, left), "set-up"
    try:
        while True:
            if not receiver.poll(max(0.0, end - time.monotonic())):
                took = time.monotonic() - started
                if left < section.seconds:
                    yield Outcome(section.name, begun, "skipped", {"why": _TIME_IS_OVER}, took)
                else:
                    why = f"ended after {section.seconds:.0f} s, the section's limit"
                    yield Outcome(section.name, begun, "ERROR", {"why": why}, took)
                return
            match receiver.recv():
                case Outcome() as outcome:
                    yield outcome
                case str() as name:
                    begun = name
                case _:
                    return
    except EOFError:
        process.join()
        if process.exitcode:
            why = f"its process ended with {process.exitcode}"
            took = time.monotonic() - started
            yield Outcome(section.name, begun, "ERROR", {"why": why}, took)
    finally:
        process.kill()
        with suppress(ProcessLookupError):  # what it started
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        receiver.close()


def _work(section: Section, setting: Setting, sender: Connection) -> None:
    os.setsid()
    cases = section.cases(setting)
    while True:
        sender.send("set-up")
        started, name = time.monotonic(), "set-up"
        try:
            case = next(cases)
            name = case.name
            sender.send(name)
            measured = case.run()
            if setting.on_gpu:
                torch.cuda.synchronize()
        except StopIteration:
            sender.send(None)  # what it started may keep the pipe open
            return
        except Exception as error:
            why = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
            measured, verdict = Measured({"why": why}), "ERROR"
        else:
            verdict = {True: "holds", False: "FAILS", None: "measured"}[measured.holds]
        took = time.monotonic() - started
        sender.send(Outcome(section.name, name, verdict, measured.figures, took))


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as aligned text, a line each."""
    rows = [("section", "case", "", "s", "figures")]
    rows += [
        (each.section, each.case, each.verdict, f"{each.seconds:.1f}", _text(each.figures))
        for each in outcomes
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    return "\n".join(
        "  ".join([*map(str.ljust, row[:-1], widths), row[-1]]).rstrip() for row in rows
    )


def _text(figures: Figures) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in figures.items()
    )
