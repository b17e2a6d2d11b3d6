"""Archives that can't be listed are named, with the reason."""

import errno
import os
import re
import socket
from pathlib import Path

import pytest

from pipeline.data.store.tar_listing import Member, list_members
from pipeline.runtime.errors import UserError

ANY = re.compile(".*")


def test_an_archive_that_cannot_be_opened_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("train.tar")
        reason = os.strerror(errno.ENXIO)
        with pytest.raises(UserError, match=rf"train\.tar: can't be read \({reason}"):
            list(list_members(tmp_path / "train.tar", ANY))


def test_an_archive_that_cannot_be_read_is_named() -> None:
    memory = Path("/proc/self/mem")  # where nothing is mapped
    reason = os.strerror(errno.EIO)
    with pytest.raises(UserError, match=rf"/proc/self/mem: can't be read \({reason}"):
        list(list_members(memory, ANY, inside=Member("inner.tar", memory, 0, 1024)))
