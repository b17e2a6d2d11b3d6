"""What an archive holds is told, or why that can't be told."""

import errno
import os
import re
import socket
from pathlib import Path

import pytest

from pipeline.data.store.tar_listing import Member, list_members
from pipeline.runtime.errors import UserError

ANY = re.compile(".*")


def test_what_cannot_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("train.tar")
        reason = os.strerror(errno.ENXIO)
        with pytest.raises(UserError, match=rf"train\.tar: can't be read \({reason}"):
            list(list_members(tmp_path / "train.tar", ANY))


def test_what_fails_while_it_is_read_is_named() -> None:
    memory = Path("/proc/self/mem")  # where nothing is mapped
    reason = os.strerror(errno.EIO)
    with pytest.raises(UserError, match=rf"/proc/self/mem: can't be read \({reason}"):
        list(list_members(memory, ANY, inside=Member("inner.tar", memory, 0, 1024)))
