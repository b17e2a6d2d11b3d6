"""Checkpoints: all that a resumed training needs, in one file that is whole or not there.

A checkpoint is written beside its final name, synced and renamed; its name ends in the first 16
hexadecimal digits of its SHA-256, so that a torn or altered file is detected before it is loaded.
The state of data loading is the position `(epoch, step)` alone, which also seeds dropout.

Why three things are our own beside those of Ray Train and MLflow:

- Checkpoints, and their writer (`checkpoint_writer.py`): one that is reported to Ray counts only
  after its controller's next poll, reporting more often blocks the training, and a training in one
  process keeps none. Ours count once they are renamed, are verified before they are loaded, survive
  a full disk, and are read without Ray, on any number of workers, by `ilsvrc replay` too.
- The metric log (`pipeline/tracking/metric_log.py`): while its server is away MLflow's client
  blocks, or loses metrics in silence if asynchronous, and a step that a resumed training repeats is
  stored twice. The log is a queue on disk that outlives outages and kills, with each step once.
- The heartbeat (`pipeline/launch/heartbeat.py`): Ray starts workers again when a process dies. It
  doesn't notice one that hangs in reading, or in a collective call over gloo.
"""

import hashlib
import io
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.runtime.errors import DiskFullError, UserError
from pipeline.runtime.storage import write_atomically
from pipeline.training.schedule import PlateauState

_NAME = re.compile(r"epoch-(\d+)-step-(\d+)\.([0-9a-f]{16})\.pt")


@dataclass(frozen=True)
class Checkpoint:
    """Weights and optimizer state after `step` steps of `epoch`, and the state of the schedule.

    `average` is the state of the moving average of the weights; without one it is empty. The fields
    are stored by their names.
    """

    epoch: int
    step: int
    model: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Any]
    plateau: PlateauState


@dataclass(frozen=True)
class Retention:
    """Which checkpoints are kept: the newest, that of the best epoch, that of every k-th epoch."""

    newest: int
    every_epochs: int | None = None

    def is_kept(self, num_newer: int, path: Path, best_epoch: int) -> bool:
        """Return whether the checkpoint at `path` is kept; there are `num_newer` newer ones."""
        epoch, step = position_of(path)
        every = self.every_epochs
        return num_newer < self.newest or (
            step == 0 and (epoch == best_epoch or bool(every and epoch % every == 0))
        )


def save_checkpoint(folder: Path, state: Checkpoint, retention: Retention) -> Path:
    """Write `state` to `folder` atomically, then delete the checkpoints that are not kept.

    Raises `DiskFullError` if there is no room, and `UserError` if the folder can't be written;
    earlier checkpoints stay.
    """
    buffer = io.BytesIO()
    torch.save({**vars(state), "plateau": asdict(state.plateau)}, buffer)
    with buffer.getbuffer() as content:  # it must be released before the buffer is
        digest = hashlib.sha256(content).hexdigest()[:16]
        path = folder / f"epoch-{state.epoch:04d}-step-{state.step:06d}.{digest}.pt"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{folder}: can't be made: {error.strerror}; mend it and run the same command again"
            ) from None
        for stale in folder.glob(".epoch-*.pt.partial"):  # a killed writer's
            stale.unlink(missing_ok=True)
        free = shutil.disk_usage(folder).free
        if free < len(content):
            raise DiskFullError(
                f"{path}: needs {len(content) / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free; "
                "free space"
            )
        write_atomically(path, content)
    for num_newer, old in enumerate(checkpoints(folder)):
        if not retention.is_kept(num_newer, old, state.plateau.best_epoch):
            old.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of `folder`, newest first."""
    found = [path for path in folder.glob("epoch-*.pt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (*position_of(path), path.stat().st_mtime), reverse=True)


def position_of(path: Path) -> tuple[int, int]:
    """Return the epoch and step of the checkpoint at `path`, from its name."""
    match = _NAME.fullmatch(path.name)
    assert match
    return int(match[1]), int(match[2])


def newest_checkpoint(
    folder: Path, warn: Callable[[str], None], before: tuple[int, int] | None = None
) -> Path | None:
    """Return the newest checkpoint that is whole; warn of damaged ones and skip them.

    With `before`, (epoch, step), it is the newest from which that step is still to be done.
    """
    all_damaged = False
    for path in checkpoints(folder):
        if before and position_of(path) > before:
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest.startswith(path.suffixes[-2].removeprefix(".")):
            return path
        warn(f"{path}: damaged (its digest differs); passed over")
        all_damaged = True
    if all_damaged:
        warn(f"{folder}: no whole checkpoint is left; the training starts anew")
    return None


def load_checkpoint(path: Path, device: torch.device) -> Checkpoint:
    """Read a checkpoint, tensors on `device`. Nothing in the file is executed."""
    content = torch.load(path, map_location=device, weights_only=True)
    return Checkpoint(**{**content, "plateau": PlateauState(**content["plateau"])})
