"""Asks a training, from outside, to save a checkpoint or to stop after its next step.

Who asks leaves a file in the run's folder, which the first worker looks for after each step; that
works from any machine that shares the folder. Signals to the command ask to stop: Ctrl-C once,
SIGTERM and SIGUSR1, which schedulers send before they take a machine away. SIGUSR1 to a worker, and
the notice that its node is to go, ask too (`pipeline.launch.preemption`).
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

_OF_SCHEDULERS = (signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def stop_on_signals(
    folder: RunFolder, grace_seconds: float, say: Callable[[str], None]
) -> Iterator[None]:
    """Have the first signal ask the run to stop, and the second raise `KeyboardInterrupt`.

    A scheduler, unlike a person, does not wait: `grace_seconds` after its signal the second one is
    sent here. Outside the main thread, where signals can't be caught, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    patience = threading.Timer(grace_seconds, os.kill, (os.getpid(), signal.SIGINT))
    patience.daemon = True

    heard = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        if heard:
            raise KeyboardInterrupt
        heard = True
        folder.stop_request.touch()
        if number in _OF_SCHEDULERS:
            patience.start()
            rest = f"within {grace_seconds:g} s"
        else:
            rest = "once more stops at once"
        name = signal.Signals(number).name
        say(f"{name}: stopping after this step, with a checkpoint; {rest}")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, *_OF_SCHEDULERS)}
    try:
        yield
    finally:
        patience.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


class StopRequest(IntEnum):
    """What all workers are to do after a step; the strongest wish wins."""

    NOTHING = 0
    SAVE = 1
    STOP = 2


class StopSignal:
    """Tells all workers after the same step what somebody asked for.

    Besides who leaves a file, time asks: `seconds_between_saves` after the last checkpoint for
    another. Workers agree in the background, while the next step is computed, and so learn of it a
    step late, at no cost.
    """

    def __init__(self, folder: RunFolder, seconds_between_saves: float, worker: Worker) -> None:
        self._folder, self._every, self._worker = folder, seconds_between_saves, worker
        # Not NCCL, for which the GPU would have to wait.
        self._group: Any = (
            torch.distributed.new_group(backend="gloo") if worker.world_size > 1 else None
        )
        self._pending: tuple[torch.distributed.Work, Tensor] | None = None
        self.saved()

    def result(self) -> StopRequest:
        """What to do now. A collective call, to be made after every step."""
        if self._group is None:
            return self._wish()
        before = self._result()
        vote = torch.tensor(self._wish().value if self._worker.is_first else 0)
        work = torch.distributed.all_reduce(vote, group=self._group, async_op=True)
        assert work is not None
        self._pending = work, vote
        return before

    def saved(self) -> None:
        """Note that a checkpoint is being written now."""
        self._last_save = time.monotonic()
        if self._worker.is_first:
            self._folder.save_request.unlink(missing_ok=True)

    def end(self) -> None:
        """Wait for the last vote, so that no worker leaves while another still votes."""
        self._result()

    def _wish(self) -> StopRequest:
        if self._folder.stop_request.exists():
            return StopRequest.STOP
        overdue = time.monotonic() - self._last_save > self._every
        return (
            StopRequest.SAVE
            if overdue or self._folder.save_request.exists()
            else StopRequest.NOTHING
        )

    def _result(self) -> StopRequest:
        if self._pending is None:
            return StopRequest.NOTHING
        work, vote = self._pending
        self._pending = None
        work.wait()
        return StopRequest(int(vote))
