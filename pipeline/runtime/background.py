"""Work in a thread beside a block of code, ended with it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def in_background(
    name: str, work: Callable[[threading.Event], None], patience: float | None = None
) -> Iterator[None]:
    """Run `work` in a thread while inside; the event passed to it is set at the end of the block.

    The block then waits for the thread, `patience` seconds at most.
    """
    ended = threading.Event()
    # A daemon thread, so that one that hangs doesn't keep the interpreter from exiting.
    thread = threading.Thread(target=work, args=(ended,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(patience)


@contextmanager
def said_if_long(say: Callable[[str], None], text: str, seconds: float = 10.0) -> Iterator[None]:
    """Call `say` with `text`, from a thread, if the block takes longer than so many `seconds`."""

    def wait(ended: threading.Event) -> None:
        if not ended.wait(seconds):
            say(text)

    with in_background("notice", wait):
        yield
