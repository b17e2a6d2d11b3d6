"""All that a resumed training needs, as one file that is whole or not there.

A checkpoint is written beside its final name, synced and renamed; its name ends in the first 16
hexadecimal digits of its SHA-256, so that a torn or altered file is known before it is loaded.
The state of loading is the position `(epoch, step)` alone, and dropout is seeded by it too.
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
    """Weights and momenta after `step` steps of `epoch`, and what the schedule remembers.

    `average` is the state of the moving average of the weights; without one it is empty.
    """

    epoch: int
    step: int
    model: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Any]
    plateau: PlateauState


@dataclass(frozen=True)
class Retention:
    """Which checkpoints stay: the newest ones, that of the best epoch, that of every k-th epoch."""

    newest: int
    every_epochs: int | None = None

    def is_kept(self, number: int, path: Path, best_epoch: int) -> bool:
        """Say so of the checkpoint at `path`, of which `number` newer ones are there."""
        epoch, step = position_of(path)
        every = self.every_epochs
        return number < self.newest or (
            step == 0 and (epoch == best_epoch or bool(every and epoch % every == 0))
        )


def save_checkpoint(folder: Path, state: Checkpoint, retention: Retention) -> Path:
    """Write `state` to `folder` atomically, then delete the checkpoints that need not stay.

    Raises `DiskFullError` when there is no room, and `UserError` when the folder can't be written;
    earlier checkpoints stay.
    """
    buffer = io.BytesIO()
    torch.save({**vars(state), "plateau": asdict(state.plateau)}, buffer)
    content = buffer.getbuffer()
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
            f"{path}: needs {len(content) / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free; free "
            "space"
        )
    write_atomically(path, content)
    for number, old in enumerate(checkpoints(folder)):
        if not retention.is_kept(number, old, state.plateau.best_epoch):
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
    """Return the newest checkpoint that is whole; a damaged one is named to `warn` and passed.

    With `before`, an (epoch, step), one that leaves that step still to be done.
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
