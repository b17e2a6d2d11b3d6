"""What was compared once on a node isn't again, and what has changed since is."""

import os
import shutil
from pathlib import Path

import pytest

from pipeline.data.store import verified_images
from pipeline.data.store.store import Split, Store


@pytest.fixture
def flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(verified_images, "_folder", lambda: folder)
    return folder


@pytest.fixture
def digits(data_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(data_dir / "digits", tmp_path / "digits"))


def opened(folder: Path) -> Split:
    return Store.open(folder).split("val")


def known(split: Split) -> list[int]:
    return [image for image in range(len(split)) if image in split._verified]


def test_another_training_does_not_compare_again(digits: Path, flags: Path) -> None:
    first, other = opened(digits), opened(digits)
    first.verified_batch([3, 5])
    assert known(first) == known(other) == known(opened(digits)) == [3, 5]
    assert known(Store.open(digits).split("train")) == []
    assert [file.stat().st_mode & 0o777 for file in flags.iterdir()] == [0o600] * 2


def test_a_shard_that_was_changed_with_its_times_kept_is_compared_again(
    digits: Path, flags: Path
) -> None:
    split = opened(digits)
    split.verified_batch(list(range(len(split))))
    (shard,) = digits.glob("val-*.tar")
    before = shard.stat()
    offset = int(split._index.offsets[3]) + 20
    with shard.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = opened(digits)
    assert known(again) == []
    with pytest.raises(ValueError, match="its bytes have changed"):
        again.verified_batch([3])
    again.verified_batch([4])
    assert known(opened(digits)) == [4]


def test_where_nothing_can_be_kept_each_process_compares(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(verified_images, "_folder", lambda: tmp_path / "file" / "folder")
    split = opened(digits)
    split.verified_batch([7])
    assert known(split) == [7]
    assert known(opened(digits)) == []


def test_flags_that_nobody_used_for_a_month_are_removed(digits: Path, flags: Path) -> None:
    flags.mkdir()
    (flags / "old").touch()
    os.utime(flags / "old", (0, 0))
    opened(digits).verified_batch([1])
    assert "old" not in [file.name for file in flags.iterdir()]
