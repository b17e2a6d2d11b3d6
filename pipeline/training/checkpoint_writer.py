"""Writes checkpoints in the background, while the training goes on."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pipeline.runtime.distributed import synchronize
from pipeline.runtime.errors import DiskFullError
from pipeline.training.checkpoint import Checkpoint, Retention, save_checkpoint


class SilentWriter:
    """Writes nothing: the writer of all workers but the first."""

    def write(self, state: Checkpoint) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class CheckpointWriter(SilentWriter):
    """Writes checkpoints in a thread of its own, one at a time.

    `write` costs the training a copy of the state. While the disk is full, writing the newest state
    is tried again every `seconds_between_tries`; the training goes on, the last good checkpoint
    stays, and `warn` is called once.
    """

    def __init__(
        self,
        folder: Path,
        retention: Retention,
        warn: Callable[[str], None],
        *,
        seconds_between_tries: float = 5.0,
        seconds_to_flush: float = 20.0,
    ) -> None:
        self._folder, self._retention, self._warn = folder, retention, warn
        self._pause, self._patience = seconds_between_tries, seconds_to_flush
        self._changed = threading.Condition()
        self._waiting: Checkpoint | None = None
        self._full: DiskFullError | None = None
        self._error: Exception | None = None
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._thread.start()

    def write(self, state: Checkpoint) -> None:
        """Queue a copy of `state` to be written; its tensors may change afterwards.

        Waits for the previous checkpoint, unless that finds no room and is replaced by this one.
        Raises the error with which a previous one could not be written, mostly a `UserError`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is None or self._full or self._error)
            if self._error:
                raise self._error
        copied = _snapshot(state)
        with self._changed:
            self._waiting = copied
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all is on the disk; raise the error that prevents it, as `write` does.

        `DiskFullError` is raised `seconds_to_flush` after the disk was found full.
        """
        with self._changed:
            while self._waiting is not None and not self._error:
                before = self._full
                self._changed.wait(self._patience if before else None)
                if before and self._full:
                    raise self._full
            if self._error:
                raise self._error

    def close(self) -> None:
        """End the thread, after the checkpoint that is being written."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closing)
                state = self._waiting
            if state is None:
                return
            try:
                save_checkpoint(self._folder, state, self._retention)
            except DiskFullError as error:
                if self._await_room(state, error):
                    return
            except Exception as error:  # raised by the next call of `write` or `flush`
                self._finish(state, error)
            else:
                self._finish(state)

    def _finish(self, state: Checkpoint, error: Exception | None = None) -> None:
        with self._changed:
            if self._full and error is None:
                self._warn(f"{self._folder}: there is room again; checkpoints are written")
            self._full, self._error = None, error
            if self._waiting is state:
                self._waiting = None
            self._changed.notify_all()

    def _await_room(self, state: Checkpoint, error: DiskFullError) -> bool:
        """Wait for the next try; return whether the writer was closed meanwhile."""
        with self._changed:
            if not self._full:
                self._warn(
                    f"{error}. The training goes on; its checkpoint is tried again every "
                    f"{self._pause:g} s, the ones before stay"
                )
                self._full = error
                self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._is_closing or self._waiting is not state, self._pause
            )
            return self._is_closing


def _snapshot(state: Checkpoint) -> Checkpoint:
    """Return a copy of `state` on the CPU."""

    devices: set[torch.device] = set()

    def copy(value: object) -> object:
        if not isinstance(value, Tensor):
            return value
        devices.add(value.device)
        # Pinned memory, which PyTorch keeps for the next time, is filled several times faster.
        copied = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
        return copied.copy_(value.detach(), non_blocking=True)

    copied = replace(
        state,
        model=tree_map(copy, state.model),
        average=tree_map(copy, state.average),
        optimizer=tree_map(copy, state.optimizer),
    )
    for device in devices:
        synchronize(device)
    return copied
