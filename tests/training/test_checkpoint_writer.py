"""Checkpoints are written in the background; a full disk only delays them."""

import threading
from contextlib import closing
from pathlib import Path

import pytest
import torch

from pipeline.runtime.errors import DiskFullError, UserError
from pipeline.training import checkpoint_writer
from pipeline.training.checkpoint import (
    Checkpoint,
    Retention,
    checkpoints,
    load_checkpoint,
    position_of,
    save_checkpoint,
)
from pipeline.training.checkpoint_writer import CheckpointWriter
from pipeline.training.schedule import PlateauState

CPU = torch.device("cpu")


def state_of(weights: torch.Tensor, epoch: int) -> Checkpoint:
    return Checkpoint(epoch, 0, {"w": weights}, {}, {"state": {0: {"m": weights}}}, PlateauState())


def positions(folder: Path) -> list[int]:
    return [position_of(path)[0] for path in checkpoints(folder)]


def test_the_state_is_copied_when_write_is_called(tmp_path: Path) -> None:
    weights = torch.zeros(1_000_000)
    with closing(CheckpointWriter(tmp_path, Retention(9), pytest.fail)) as writer:
        for epoch in range(4):
            writer.write(state_of(weights, epoch))
            weights += 1  # the next step
        writer.flush()
        assert positions(tmp_path) == [3, 2, 1, 0]
    for path in checkpoints(tmp_path):
        state = load_checkpoint(path, CPU)
        assert state.model["w"].unique().tolist() == [state.epoch]
        assert state.optimizer["state"][0]["m"].unique().tolist() == [state.epoch]


def test_closing_finishes_the_checkpoint_being_written(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, Retention(9), pytest.fail)
    writer.write(state_of(torch.zeros(1_000_000), 1))
    writer.close()
    assert positions(tmp_path) == [1]


def test_an_error_of_writing_is_raised_by_the_next_call(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with closing(CheckpointWriter(tmp_path / "file", Retention(2), pytest.fail)) as writer:
        writer.write(state_of(torch.zeros(3), 0))
        with pytest.raises(UserError, match="file: can't be made: "):
            writer.flush()
        with pytest.raises(UserError, match="file: can't be made: "):
            writer.write(state_of(torch.zeros(3), 1))


def test_a_full_disk_is_waited_for_and_the_newest_state_written(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a newer state waits, the ones before it are given up; no call waits for room."""
    warnings: list[str] = []
    newest_is_tried = threading.Event()

    def save(folder: Path, state: Checkpoint, retention: Retention) -> Path:
        assert not (newest_is_tried.is_set() and state.epoch < 3), "an older one is tried again"
        try:
            return save_checkpoint(folder, state, retention)
        finally:
            if state.epoch == 3:
                newest_is_tried.set()

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", save)
    folder, other = small_disk / "run", small_disk / "somebody's"
    with closing(
        CheckpointWriter(folder, Retention(2), warnings.append, seconds_between_tries=0.02)
    ) as writer:
        writer.write(state_of(torch.zeros(10_000), 0))
        writer.flush()
        other.write_bytes(bytes(700_000))
        for epoch in (1, 2, 3):
            writer.write(state_of(torch.full((50_000,), float(epoch)), epoch))
        assert newest_is_tried.wait(60)
        assert positions(folder) == [0]
        other.unlink()
        writer.flush()
    assert positions(folder) == [3, 0]
    assert load_checkpoint(checkpoints(folder)[0], CPU).model["w"][0] == 3
    assert len(warnings) == 2
    assert "The training goes on; its checkpoint is tried again every 0.02 s" in warnings[0]
    assert warnings[1].endswith("there is room again; checkpoints are written")


def test_flush_fails_on_a_disk_that_stays_full(small_disk: Path) -> None:
    warnings: list[str] = []
    writer = CheckpointWriter(
        small_disk, Retention(2), warnings.append, seconds_between_tries=0.02, seconds_to_flush=0.1
    )
    writer.write(state_of(torch.zeros(1_000_000), 0))
    with pytest.raises(DiskFullError, match=r"needs 8\.0 MB and 1\.0 MB are free"):
        writer.flush()
    writer.close()
    assert positions(small_disk) == []
    assert list(small_disk.iterdir()) == []


def test_another_error_after_a_full_disk_gives_no_warning_of_room(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    is_warned = threading.Event()

    def warn(text: str) -> None:
        warnings.append(text)
        is_warned.set()

    folder, other = small_disk / "run", small_disk / "somebody's"
    # Nothing is tried, and nothing is in the folder, until there is a newer state.
    writer = CheckpointWriter(folder, Retention(2), warn, seconds_between_tries=3600)
    other.write_bytes(bytes(900_000))
    writer.write(state_of(torch.zeros(50_000), 0))
    assert is_warned.wait(60)
    folder.rmdir()
    folder.write_bytes(b"")  # a file in the folder's place
    writer.write(state_of(torch.zeros(50_000), 1))
    with pytest.raises(UserError, match=f"{folder}: can't be made"):
        writer.flush()
    writer.close()
    assert len(warnings) == 1
