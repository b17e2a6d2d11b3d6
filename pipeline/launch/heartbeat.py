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

_MARGIN = 5.0  # seconds after the timeout before the interpreter's own watchdog ends the process


class Watchdog:
    """Ends a worker that takes no batch for `timeout` seconds.

    It then writes the stacks of all its threads to `folder` and exits: Ray Train starts all workers
    again, from the last checkpoint. All workers of a hanging collective do so. A worker whose
    threads can't run is ended from outside the interpreter.
    """

    def __init__(self, folder: Path, timeout: float, worker: Worker, report: Report) -> None:
        self._stacks = folder / f"stacks-of-worker-{worker.rank}.txt"
        self._timeout, self._worker, self._report = timeout, worker, report
        self._num_taken, self._last = 0, time.monotonic()

    def counted(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield `batches` and note the time of each."""
        for batch in batches:
            self._num_taken, self._last = self._num_taken + 1, time.monotonic()
            yield batch

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while inside."""
        self._last = time.monotonic()
        with self._stacks.open("w", encoding="utf-8") as file:

            def watch(is_over: threading.Event) -> None:
                while not is_over.wait(min(1.0, self._timeout / 4)):
                    faulthandler.dump_traceback_later(self._timeout + _MARGIN, exit=True, file=file)
                    self._report(Heartbeat(self._worker.rank, self._num_taken))
                    if time.monotonic() - self._last > self._timeout:
                        faulthandler.dump_traceback(file, all_threads=True)
                        self._exit()

            try:
                with in_background("watchdog", watch):
                    yield
            finally:
                faulthandler.cancel_dump_traceback_later()
                self._stacks.unlink(missing_ok=True)  # evaluations of one run share the file

    def _exit(self) -> None:
        self._report(WorkerHung(self._worker.rank, self._timeout, self._stacks.parent))
        time.sleep(1)  # for the event to be sent
        os._exit(1)


class HeartbeatMonitor:
    """Turns the workers' heartbeats into one line for the user when a worker hangs or restarts."""

    def __init__(self, are_elastic: bool) -> None:
        self._restart_reason = "workers went or came" if are_elastic else "a worker was lost"
        self._has_started = False
        self._heartbeats: dict[int, tuple[int, float]] = {}  # by rank: batches taken, when
        self._last_hang = float("-inf")

    def filter(self, event: Event) -> Event | None:
        """Return the event to show to the user, or None."""
        now = time.monotonic()
        match event:
            case WorkerStarted(rank=0) if self._has_started:
                return Message(f"{self._restart_reason}; all start again")
            case WorkerStarted(rank=0):
                self._has_started = True
            case Heartbeat(rank=rank, batches=batches):
                self._heartbeats[rank] = batches, now
                return None
            case WorkerHung() if now - self._last_hang < event.seconds:
                return None  # another worker of the same collective
            case WorkerHung():
                self._last_hang = now
                self._has_started = False  # the message below announces the restart
                return Message(self._hang_message(event, now))
        return event

    def _hang_message(self, event: WorkerHung, now: float) -> str:
        beats = self._heartbeats
        slowest = min(beats, key=lambda rank: beats[rank], default=event.rank)
        batches, last_heard = beats.get(slowest, (0, now))
        others = {beats[rank][0] for rank in beats if rank != slowest}
        beside = f" (the others: {', '.join(map(str, sorted(others)))})" if others else ""
        beats.clear()
        return (
            f"no batch was taken for {event.seconds:g} s; the slowest is worker {slowest}, after "
            f"{batches} batches{beside}, last heard of {now - last_heard:.0f} s ago. All workers "
            f"are ended, their stacks are in {event.folder}"
        )
