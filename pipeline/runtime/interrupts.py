"""Signals that ask a command to end, as `KeyboardInterrupt`."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt`; during an import, as soon as that is done. A handler of signals.

    Some of torch's C++ aborts the process where Python raises while it is imported.
    """
    importing = None
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            importing = frame.f_back
        frame = frame.f_back
    if importing is None:
        raise KeyboardInterrupt
    importing.f_trace = _raise_at_next_line
    sys.settrace(lambda *_: None)  # without one, that of a frame isn't called


def _raise_at_next_line(frame: FrameType, event: str, argument: object) -> None:
    sys.settrace(None)
    raise KeyboardInterrupt


@contextmanager
def interrupted_by_signals() -> Iterator[Callable[[], None]]:
    """Have signals that ask to end raise `KeyboardInterrupt`; yields what installs that again."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {name: signal.getsignal(name) for name in names}

    def install() -> None:
        for name in names:
            signal.signal(name, interrupt)

    install()
    try:
        yield install
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
