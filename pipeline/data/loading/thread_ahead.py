"""Runs an iterator in a thread of its own, ahead of what takes its items."""

import threading
import weakref
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item", covariant=True)


class Source(Protocol[Item]):
    """What the thread runs. It is used and closed by the thread alone."""

    def __next__(self) -> Item: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class _End:
    error: BaseException | None


class ThreadAhead(Generic[Item]):
    """Yields the items of `source`, of which a thread has up to `depth` ready.

    An error of `source` is raised where its item would come, with its own traceback. The thread
    ends with `source`, by `close`, and at the latest when nothing refers to this any more or the
    interpreter exits.
    """

    def __init__(self, source: Source[Item], depth: int = 1) -> None:
        self._items: SimpleQueue[Item | _End] = SimpleQueue()
        self._places = threading.Semaphore(depth)
        self._is_over = False
        ended = threading.Event()
        # A daemon, since the interpreter waits for other threads before it ends this one.
        thread = threading.Thread(
            target=_fill,
            args=(source, self._items, self._places, ended),
            name="loader",
            daemon=True,
        )
        self._end_thread = weakref.finalize(self, _end, thread, self._places, ended)
        thread.start()

    def __next__(self) -> Item:
        if self._is_over:
            raise StopIteration
        item = self._items.get()
        if isinstance(item, _End):
            self._is_over = True
            if item.error is not None:
                raise item.error
            raise StopIteration
        self._places.release()
        return item

    def close(self) -> None:
        """End the thread once `source` has given the item that it is at."""
        self._is_over = True
        self._end_thread()


# Neither function may refer to the `ThreadAhead`, whose end is that of the thread.


def _fill(
    source: Source[Item],
    items: "SimpleQueue[Item | _End]",
    places: threading.Semaphore,
    ended: threading.Event,
) -> None:
    try:
        try:
            while places.acquire() and not ended.is_set():
                items.put(next(source))
        finally:
            source.close()
    except StopIteration:
        items.put(_End(None))
    except BaseException as error:  # whatever it is, it is raised where the items are taken
        items.put(_End(error))


def _end(thread: threading.Thread, places: threading.Semaphore, ended: threading.Event) -> None:
    ended.set()
    places.release()
    if thread is not threading.current_thread():  # where garbage is collected
        thread.join()
