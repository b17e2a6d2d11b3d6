"""Ends workers that hang, in a collective or in reading, so that they can start again."""

import faulthandler
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pipeline.launch.events import Event, Heartbeat, Message, Report, WorkerHung, WorkerStarted
from pipeline.launch.progress_board import ProgressBoard, WorkerProgress, late_workers
from pipeline.runtime.background import in_background
from pipeline.runtime.distributed import Worker

Item = TypeVar("Item")

_MARGIN = 5.0  # seconds after the timeout before the interpreter's own watchdog ends the process


class Watchdog:
    """Ends the worker when the job hangs (`launch.progress_board`).

    It then writes the stacks of all its threads to `folder` and exits: Ray Train starts all workers
    again, from the last checkpoint. All workers of a hanging collective do so. A worker whose
    threads can't run is ended from outside the interpreter, unless it `may_be_stopped`, as by
    Ctrl-Z: then time in which its threads don't run doesn't count.
    """

    def __init__(
        self,
        folder: Path,
        timeout: float,
        worker: Worker,
        report: Report,
        *,
        may_be_stopped: bool = False,
    ) -> None:
        self._stacks = folder / f"stacks-of-worker-{worker.rank}.txt"
        self._timeout, self._worker, self._report = timeout, worker, report
        self._may_be_stopped = may_be_stopped
        self._delay = timeout / 5
        self._board = ProgressBoard(worker, self._delay)
        self._num_taken, self._last, self._is_alone = 0, time.monotonic(), False
        self._num_steps, self._in_this_step, self._in_a_step = 0, 0, 1

    def counted(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield batches of a training, and note the time of each."""
        for batch in batches:
            self._note_batch()
            self._in_this_step += 1
            yield batch

    def counted_alone(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield `batches` between which no worker waits for another, and note the time of each."""
        self._last, self._is_alone = time.monotonic(), True  # it may have waited until now
        try:
            for batch in batches:
                self._note_batch()
                yield batch
        finally:
            self._is_alone, self._last = False, time.monotonic()

    def step_done(self) -> None:
        """Note the end of a step, in which all workers have met."""
        self._num_steps += 1
        self._in_a_step, self._in_this_step = max(1, self._in_this_step), 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while inside."""
        self._last = time.monotonic()
        with self._stacks.open("w", encoding="utf-8") as file:

            def watch(is_over: threading.Event) -> None:
                interval, woke = min(1.0, self._timeout / 4), time.monotonic()
                while not is_over.wait(interval):
                    now = time.monotonic()
                    if self._may_be_stopped:
                        self._last = min(now, self._last + now - woke - interval)
                    else:
                        faulthandler.dump_traceback_later(
                            self._timeout + _MARGIN, exit=True, file=file
                        )
                    woke = now
                    self._report(Heartbeat(self._worker.rank, self._num_taken))
                    known = self._board.known(self._progress())
                    if late := late_workers(known, self._worker.rank, self._timeout, self._delay):
                        faulthandler.dump_traceback(file, all_threads=True)
                        self._exit(late)

            try:
                with self._board.exchanging(self._progress), in_background("watchdog", watch):
                    yield
            finally:
                faulthandler.cancel_dump_traceback_later()
                self._stacks.unlink(missing_ok=True)  # evaluations of one run share the file

    def _note_batch(self) -> None:
        self._num_taken, self._last = self._num_taken + 1, time.monotonic()

    def _progress(self) -> WorkerProgress:
        share = min(1.0, self._in_this_step / self._in_a_step)
        seconds = time.monotonic() - self._last
        return WorkerProgress(self._num_steps + share, seconds, self._is_alone)

    def _exit(self, late: list[int]) -> None:
        folder = self._stacks.parent
        self._report(WorkerHung(self._worker.rank, self._timeout, folder, tuple(late)))
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
        beats, late = self._heartbeats, sorted(event.late)
        batches, last_heard = beats.get(late[0], (0, now))
        others = {beats[rank][0] for rank in beats if rank not in late}
        beside = f" (the others: {', '.join(map(str, sorted(others)))})" if others else ""
        if len(late) == len(beats) > 1:
            who = f"no worker is behind the others, after {batches} batches"
        else:
            ranks = ", ".join(map(str, late))
            who = (
                f"worker{'s' * (len(late) > 1)} {ranks} {'are' if len(late) > 1 else 'is'} late, "
                f"after {batches} batches{beside}, last heard of {now - last_heard:.0f} s ago"
            )
        beats.clear()
        return (
            f"no batch was taken for {event.seconds:g} s; {who}. All workers are ended, their "
            f"stacks are in {event.folder}"
        )
