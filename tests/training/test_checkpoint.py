"""Checkpoints are read whole or not at all; earlier ones survive every failure."""

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.config import optimization
from pipeline.runtime.errors import DiskFullError, UserError
from pipeline.runtime.storage import write_atomically
from pipeline.training.checkpoint import (
    Checkpoint,
    Retention,
    checkpoints,
    load_checkpoint,
    newest_checkpoint,
    position_of,
    save_checkpoint,
)
from pipeline.training.optimizer import build_optimizer
from pipeline.training.schedule import PlateauState


def some_state(epoch: int, step: int) -> Checkpoint:
    model = nn.Linear(3, 2)
    optimizer = build_optimizer(optimization.SGDConfig(learning_rate=0.1), model)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    average = {"n_averaged": torch.tensor(3), "module.weight": torch.ones(2, 3)}
    plateau = PlateauState(12.5, 1, 2)
    return Checkpoint(epoch, step, model.state_dict(), average, optimizer.state_dict(), plateau)


def test_a_checkpoint_loads_as_it_was_saved(tmp_path: Path) -> None:
    state = some_state(3, 7)
    loaded = load_checkpoint(save_checkpoint(tmp_path, state, Retention(2)), torch.device("cpu"))
    assert (loaded.epoch, loaded.step, loaded.plateau) == (3, 7, state.plateau)
    assert all(torch.equal(loaded.model[name], state.model[name]) for name in state.model)
    assert torch.equal(loaded.average["module.weight"], state.average["module.weight"])
    momentum = [entry["momentum_buffer"] for entry in state.optimizer["state"].values()]
    loaded_momentum = [entry["momentum_buffer"] for entry in loaded.optimizer["state"].values()]
    assert len(momentum) == 2
    assert all(map(torch.equal, momentum, loaded_momentum))
    assert loaded.optimizer["param_groups"] == state.optimizer["param_groups"]


def test_the_newest_by_position_are_kept(tmp_path: Path) -> None:
    for position in ((0, 5), (1, 0), (0, 10), (1, 5)):
        save_checkpoint(tmp_path, some_state(*position), Retention(2))
    kept = [load_checkpoint(path, torch.device("cpu")) for path in checkpoints(tmp_path)]
    assert [(state.epoch, state.step) for state in kept] == [(1, 5), (1, 0)]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("retention", "expected"),
    [(Retention(1), [8, 3]), (Retention(2, every_epochs=4), [8, 7, 4, 3])],
)
def test_the_best_and_every_kth_epoch_are_kept(
    tmp_path: Path, retention: Retention, expected: list[int]
) -> None:
    for epoch in range(1, 9):
        state = replace(some_state(epoch, 0), plateau=PlateauState(best_epoch=min(epoch, 3)))
        save_checkpoint(tmp_path, state, retention)
    assert [position_of(path)[0] for path in checkpoints(tmp_path)] == expected


@pytest.mark.parametrize("damage", ["torn", "flipped", "empty"])
def test_a_damaged_newest_checkpoint_is_skipped_with_a_warning(tmp_path: Path, damage: str) -> None:
    good = save_checkpoint(tmp_path, some_state(1, 0), Retention(5))
    bad = save_checkpoint(tmp_path, some_state(2, 0), Retention(5))
    content = bytearray(bad.read_bytes())
    content[len(content) // 2] ^= 1
    bad.write_bytes({"torn": content[:-100], "flipped": content, "empty": b""}[damage])
    warnings: list[str] = []
    assert newest_checkpoint(tmp_path, warnings.append) == good
    assert len(warnings) == 1
    assert bad.name in warnings[0]
    good.unlink()
    assert newest_checkpoint(tmp_path, warnings.append) is None
    assert "the training starts anew" in warnings[-1]


def test_a_missing_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "nothing", pytest.fail) is None


def test_other_files_are_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "epoch-best.pt").write_bytes(b"mine")
    save_checkpoint(tmp_path, some_state(1, 0), Retention(2))
    assert (tmp_path / "epoch-best.pt").read_bytes() == b"mine"


def test_writing_below_a_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    reason = os.strerror(errno.ENOTDIR)
    with pytest.raises(UserError, match=f"file/more: can't be written: {reason}"):
        write_atomically(tmp_path / "file" / "more", b"")


@pytest.mark.parametrize("small_disk", [64], indirect=True)
def test_a_full_disk_keeps_the_last_checkpoint(small_disk: Path) -> None:
    good = save_checkpoint(small_disk, some_state(1, 0), Retention(2))
    large = some_state(2, 0)
    large.model["more"] = torch.zeros(100_000)
    with pytest.raises(DiskFullError, match="MB are free; free space"):
        save_checkpoint(small_disk, large, Retention(2))
    with pytest.raises(DiskFullError, match=os.strerror(errno.ENOSPC)):
        write_atomically(small_disk / "more", bytes(100_000))
    assert list(small_disk.iterdir()) == [good]
    assert newest_checkpoint(small_disk, pytest.fail) == good


def test_a_kill_at_any_moment_leaves_only_whole_checkpoints(tmp_path: Path) -> None:
    writer = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from pipeline.training.checkpoint import *\n"
        "from pipeline.training.schedule import PlateauState\n"
        "model = {'w': torch.zeros(2_000_000)}\n"
        "for epoch in range(1000):\n"
        "    state = Checkpoint(epoch, 0, model, {}, {}, PlateauState())\n"
        "    save_checkpoint(Path(sys.argv[1]), state, Retention(3))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", writer, str(tmp_path)])
    try:
        deadline = time.monotonic() + 60
        while len(checkpoints(tmp_path)) < 3 and time.monotonic() < deadline:
            time.sleep(0.003)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    newest = newest_checkpoint(tmp_path, pytest.fail)
    assert newest == checkpoints(tmp_path)[0]
    assert load_checkpoint(newest, torch.device("cpu")).model["w"].shape == (2_000_000,)
