"""Ends workers that hang, in a collective or in reading, so that they can be started again."""

import faulthandler
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pipeline.launch.events import Event, Heartbeat, Message, Report, WorkerHung, WorkerStarted
from pipeline.runtime.background import in_background
from pipeline.runtime.distributed import Worker

Item = TypeVar("Item")

_MARGIN = 5.0  # seconds that a thread has more than the interpreter's own watchdog grants it


class Watchdog:
    """Counts the batches that a worker took, and when it took the last one.

    When none is taken for `patience` seconds, the worker leaves the stacks of all its threads in
    `folder` and ends: Ray Train then starts all workers again, from the last checkpoint. All
    workers of a hanging collective do so. A worker whose threads can't run is ended from outside
    the interpreter.
    """

    def __init__(self, folder: Path, patience: float, worker: Worker, report: Report) -> None:
        self._stacks = folder / f"stacks-of-worker-{worker.rank}.txt"
        self._patience, self._worker, self._report = patience, worker, report
        self._num_taken, self._last = 0, time.monotonic()

    def counted(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield `batches`, each of which is a sign of life."""
        for batch in batches:
            self._num_taken, self._last = self._num_taken + 1, time.monotonic()
            yield batch

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while inside."""
        self._last = time.monotonic()
        with self._stacks.open("w", encoding="utf-8") as file:

            def watch(is_over: threading.Event) -> None:
                while not is_over.wait(min(1.0, self._patience / 4)):
                    faulthandler.dump_traceback_later(
                        self._patience + _MARGIN, exit=True, file=file
                    )
                    self._report(Heartbeat(self._worker.rank, self._num_taken))
                    if time.monotonic() - self._last > self._patience:
                        faulthandler.dump_traceback(file, all_threads=True)
                        self._end()

            try:
                with in_background("watchdog", watch):
                    yield
            finally:
                faulthandler.cancel_dump_traceback_later()
                self._stacks.unlink(missing_ok=True)  # evaluations of one run share the file

    def _end(self) -> None:
        self._report(WorkerHung(self._worker.rank, self._patience, self._stacks.parent))
        time.sleep(1)  # for the word to leave
        os._exit(1)


class HeartbeatMonitor:
    """Hears the workers' signs of life, and says in one line who hung, and that all start again."""

    def __init__(self, are_elastic: bool) -> None:
        self._why_again = "workers went or came" if are_elastic else "a worker was lost"
        self._has_started = False
        self._beats: dict[int, tuple[int, float]] = {}
        self._told = float("-inf")

    def hear(self, event: Event) -> Event | None:
        """Return what a person should be told, which of most signs of life is nothing."""
        now = time.monotonic()
        match event:
            case WorkerStarted(rank=0) if self._has_started:
                return Message(f"{self._why_again}; all start again")
            case WorkerStarted(rank=0):
                self._has_started = True
            case Heartbeat(rank=rank, batches=batches):
                self._beats[rank] = batches, now
                return None
            case WorkerHung() if now - self._told < event.seconds:
                return None  # another worker of the same collective
            case WorkerHung():
                self._told = now
                self._has_started = False  # this says already that they start again
                return Message(self._words(event, now))
        return event

    def _words(self, event: WorkerHung, now: float) -> str:
        slowest = min(self._beats, key=lambda rank: self._beats[rank], default=event.rank)
        batches, heard = self._beats.get(slowest, (0, now))
        others = {self._beats[rank][0] for rank in self._beats if rank != slowest}
        beside = f" (the others: {', '.join(map(str, sorted(others)))})" if others else ""
        self._beats.clear()
        return (
            f"no batch was taken for {event.seconds:g} s; the slowest is worker {slowest}, after "
            f"{batches} batches{beside}, last heard of {now - heard:.0f} s ago. All workers are "
            f"ended, their stacks are in {event.folder}"
        )
