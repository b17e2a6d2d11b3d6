"""Storage that lacks file locks, or can't sync a folder: work goes on, with one warning."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.runtime import storage
from pipeline.runtime.errors import UserError
from pipeline.runtime.storage import file_lock, write_atomically


@pytest.fixture(autouse=True)
def unwarned() -> Iterator[None]:
    storage._warn.cache_clear()
    yield
    storage._warn.cache_clear()


def test_a_lock_keeps_another_holder_out(tmp_path: Path) -> None:
    with (
        file_lock(tmp_path / "lock"),
        pytest.raises(UserError, match="held"),
        file_lock(tmp_path / "lock", "it is held"),
    ):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_without_file_locks_work_goes_on_unlocked(
    tmp_path: Path,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    for _ in range(2):
        with file_lock(tmp_path / "lock", "it is held"):
            pass
    (warning,) = caplog.messages
    assert warning.startswith(f"{tmp_path}: this storage has no file locks")


def test_a_folder_that_cant_be_synced_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fsync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    for content in (b"a", b"b"):
        write_atomically(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == b"b"
    (warning,) = caplog.messages
    assert "a power cut may undo" in warning
