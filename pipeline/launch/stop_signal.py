"""Requests to a running training: save a checkpoint, or stop after the next step.

A request is a file in the run's folder, which the first worker looks for after each step; that
works from any machine that shares the folder. Signals to the command request a stop: Ctrl-C once,
SIGTERM and SIGUSR1, which schedulers send before they take a machine away. So do SIGUSR1 to a
worker, and the notice that its node will be preempted (`pipeline.launch.preemption`).
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.distributed import Worker
from pipeline.runtime.interrupts import interrupt

_OF_SCHEDULERS = (signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def stop_on_signals(
    folder: RunFolder, grace_seconds: float, say: Callable[[str], None]
) -> Iterator[None]:
    """Have the first signal request a stop of the run, and the second raise `KeyboardInterrupt`.

    A scheduler, unlike a person, does not wait: `grace_seconds` after its signal the second one is
    sent here. Outside the main thread, where signals can't be caught, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    deadline = threading.Timer(grace_seconds, os.kill, (os.getpid(), signal.SIGINT))
    deadline.daemon = True

    is_requested = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal is_requested
        if is_requested:
            interrupt(number, frame)
            return
        is_requested = True
        folder.stop_request.touch()
        if number in _OF_SCHEDULERS:
            deadline.start()
            rest = f"within {grace_seconds:g} s"
        else:
            rest = "once more stops at once"
        name = signal.Signals(number).name
        say(f"{name}: stopping after this step, with a checkpoint; {rest}")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, *_OF_SCHEDULERS)}
    try:
        yield
    finally:
        deadline.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


class StopRequest(IntEnum):
    """What all workers must do after a step."""

    NOTHING = 0
    SAVE = 1
    STOP = 2


class StopSignal:
    """Gives all workers the same request after the same step.

    Requests are files in the run's folder; in addition, a checkpoint is requested
    `seconds_between_saves` after the last one. Workers exchange the request in the background,
    while the next step is computed, and so receive it a step late, at no cost.
    """

    def __init__(self, folder: RunFolder, seconds_between_saves: float, worker: Worker) -> None:
        self._folder, self._every, self._worker = folder, seconds_between_saves, worker
        # Not NCCL, for which the GPU would have to wait.
        self._group: Any = (
            torch.distributed.new_group(backend="gloo") if worker.world_size > 1 else None
        )
        self._pending: tuple[torch.distributed.Work, Tensor] | None = None
        self.checkpoint_saved()

    def poll(self) -> StopRequest:
        """Return what to do now. A collective call, to be made after every step."""
        if self._group is None:
            return self._requested()
        received = self._receive()
        value = torch.tensor(self._requested().value if self._worker.is_first else 0)
        work = torch.distributed.all_reduce(value, group=self._group, async_op=True)
        assert work is not None
        self._pending = work, value
        return received

    def checkpoint_saved(self) -> None:
        """Note that a checkpoint is being written now."""
        self._last_save = time.monotonic()
        if self._worker.is_first:
            self._folder.save_request.unlink(missing_ok=True)

    def close(self) -> None:
        """Wait for the last exchange, so that no worker leaves while another is still in it."""
        self._receive()

    def _requested(self) -> StopRequest:
        if self._folder.stop_request.exists():
            return StopRequest.STOP
        is_overdue = time.monotonic() - self._last_save > self._every
        if is_overdue or self._folder.save_request.exists():
            return StopRequest.SAVE
        return StopRequest.NOTHING

    def _receive(self) -> StopRequest:
        if self._pending is None:
            return StopRequest.NOTHING
        work, value = self._pending
        self._pending = None
        work.wait()
        return StopRequest(int(value))
