"""Work beside other work, which ends with it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def in_background(
    name: str, work: Callable[[threading.Event], None], patience: float | None = None
) -> Iterator[None]:
    """Run `work` in a thread while inside; the event that it is given says when that is over.

    Its end is waited for, `patience` seconds at most.
    """
    is_over = threading.Event()
    # A daemon: no interpreter waits for one that hangs.
    thread = threading.Thread(target=work, args=(is_over,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(patience)
