"""All that a resumed training needs, as one file that is whole or not there.

A checkpoint is written beside its final name, synced and renamed; its name ends in the first 16
hexadecimal digits of its SHA-256, so that a torn or altered file is known before it is loaded.
The state of loading is the position `(epoch, step)` alone, and dropout is seeded by it too.
"""

import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.storage import write_whole
from pipeline.training.schedule import PlateauState

_NAME = re.compile(r"epoch-(\d+)-step-(\d+)\.([0-9a-f]{16})\.pt")


@dataclass(frozen=True)
class TrainingState:
    """Weights and momenta after `step` steps of `epoch`, and what the schedule remembers.

    `average` is the state of the moving average of the weights; without one it is empty.
    """

    epoch: int
    step: int
    model: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Any]
    plateau: PlateauState


def save_checkpoint(folder: Path, state: TrainingState, keep: int) -> Path:
    """Write `state` to `folder` atomically, then delete all but the newest `keep` checkpoints.

    Raises `UserError` when the storage is full or read-only; earlier checkpoints stay.
    """
    buffer = io.BytesIO()
    torch.save({**vars(state), "plateau": asdict(state.plateau)}, buffer)
    content = buffer.getbuffer()
    digest = hashlib.sha256(content).hexdigest()[:16]
    path = folder / f"epoch-{state.epoch:04d}-step-{state.step:06d}.{digest}.pt"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".epoch-*.pt.partial"):  # a killed writer's
        stale.unlink(missing_ok=True)
    write_whole(path, content)
    for old in checkpoints(folder)[keep:]:
        old.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of `folder`, newest first."""

    def position(path: Path) -> tuple[int, int, float]:
        match = _NAME.fullmatch(path.name)
        assert match
        return int(match[1]), int(match[2]), path.stat().st_mtime

    found = [path for path in folder.glob("epoch-*.pt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=position, reverse=True)


def newest_checkpoint(
    folder: Path, warn: Callable[[str], None], before: tuple[int, int] | None = None
) -> Path | None:
    """Return the newest checkpoint that is whole; a damaged one is named to `warn` and passed.

    With `before`, an (epoch, step), one that leaves that step still to be done.
    """
    for path in checkpoints(folder):
        match = _NAME.fullmatch(path.name)
        assert match
        if before and (int(match[1]), int(match[2])) > before:
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest.startswith(match[3]):
            return path
        warn(f"{path}: damaged (its digest differs); the checkpoint before it is used")
    return None


def load_checkpoint(path: Path, device: torch.device) -> TrainingState:
    """Read a checkpoint, tensors on `device`. Nothing in the file is executed."""
    content = torch.load(path, map_location=device, weights_only=True)
    return TrainingState(**{**content, "plateau": PlateauState(**content["plateau"])})
