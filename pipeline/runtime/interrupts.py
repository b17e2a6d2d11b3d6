"""Signals that ask a command to end, as `KeyboardInterrupt`."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupted_by_signals() -> Iterator[Callable[[], None]]:
    """Have signals that ask to end raise `KeyboardInterrupt`; yields what installs that again."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

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
