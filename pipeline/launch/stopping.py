"""Stops a training at its next step, with a checkpoint, when a person or a scheduler asks.

Who asks leaves a file in the run's folder, which the first worker looks for after each step; that
works from any machine that shares the folder. Signals to the command do so: Ctrl-C once, SIGTERM
and SIGUSR1, which schedulers send before they take a machine away.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from pipeline.distributed import Worker

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def asking_on_signals(request: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Have the first signal write the file `request`, and the second raise `KeyboardInterrupt`.

    Outside the main thread, where signals can't be caught, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request.exists():
            raise KeyboardInterrupt
        request.touch()
        say(
            f"{signal.Signals(number).name}: stopping after this step, with a checkpoint; once "
            "more stops at once"
        )

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopVote:
    """Tells all workers after the same step that the file `request` is there.

    Workers agree in the background, while the next step is computed, and so learn of the request a
    step late, at no cost.
    """

    def __init__(self, request: Path, worker: Worker) -> None:
        self._request, self._worker = request, worker
        # Not NCCL, for which the GPU would have to wait.
        self._group: Any = (
            torch.distributed.new_group(backend="gloo") if worker.world_size > 1 else None
        )
        self._pending: tuple[torch.distributed.Work, Tensor] | None = None

    def is_agreed(self) -> bool:
        """Whether to stop now. A collective call, to be made after every step."""
        if self._group is None:
            return self._request.exists()
        before = self._result()
        vote = torch.tensor(int(self._worker.is_first and self._request.exists()))
        work = torch.distributed.all_reduce(vote, group=self._group, async_op=True)
        assert work is not None
        self._pending = work, vote
        return before

    def end(self) -> None:
        """Wait for the last vote, so that no worker leaves while another still votes."""
        self._result()

    def _result(self) -> bool:
        if self._pending is None:
            return False
        work, vote = self._pending
        self._pending = None
        work.wait()
        return bool(vote)
