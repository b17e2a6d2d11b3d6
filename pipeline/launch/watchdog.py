"""Ends a worker that hangs, in a collective or in reading, so that it can be started again."""

import faulthandler
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pipeline.distributed import Worker
from pipeline.launch.events import Note, Report

Item = TypeVar("Item")


class Watchdog:
    """Counts the batches that a worker took, and when it took the last one.

    When none is taken for `patience` seconds, the worker leaves the stacks of all its threads in
    `folder` and ends: Ray Train then starts all workers again, from the last checkpoint. All
    workers of a hanging collective do so; the one that took fewest batches kept the others waiting.
    """

    def __init__(self, folder: Path, patience: float, worker: Worker, report: Report) -> None:
        self._folder, self._patience = folder, patience
        self._worker, self._report = worker, report
        self._num_taken, self._last = 0, time.monotonic()

    def counted(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield `batches`, each of which is a sign of life."""
        for batch in batches:
            self._num_taken, self._last = self._num_taken + 1, time.monotonic()
            yield batch

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch, while inside, a worker that has others or a process of its own."""
        is_over = threading.Event()

        def watch() -> None:
            while not is_over.wait(min(1.0, self._patience / 4)):
                if time.monotonic() - self._last > self._patience:
                    self._end()

        thread = threading.Thread(target=watch, name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()

    def _end(self) -> None:
        path = self._folder / f"stacks-of-worker-{self._worker.rank}.txt"
        with path.open("w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        self._report(
            Note(
                f"worker {self._worker.rank} took no batch for {self._patience:g} s, "
                f"{self._num_taken} before; it is ended, its stacks are in {path}"
            )
        )
        time.sleep(1)  # for the note to leave
        os._exit(1)
