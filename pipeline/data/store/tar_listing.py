"""The members of an untrusted tar archive: names, offsets and sizes, without unpacking.

Nothing is ever written under a name that an archive gives. An archive with anything but regular
files of expected names is refused, by the name of the first such member.
"""

import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.runtime.errors import UserError

_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file of an archive: `size` bytes of `file` from `offset` on."""

    name: str
    file: Path
    offset: int
    size: int


def list_members(
    file: Path, allowed: re.Pattern[str], inside: Member | None = None
) -> Iterator[Member]:
    """Yield the regular files of the tar archive `file`, or of the archive that is `inside` it.

    Only headers are read. Raises `UserError` for a name that `allowed` doesn't match in full, a
    member that is no regular file (folders of allowed names are skipped), and an archive that
    can't be read, is damaged or ends too early.
    """
    where = f"{file}: {inside.name}" if inside else str(file)
    try:
        start, length = (inside.offset, inside.size) if inside else (0, file.stat().st_size)
        with file.open("rb") as opened:
            if inside is None and opened.read(2) == _GZIP:
                raise UserError(f"{file}: gzip can't be read at any place; gunzip it first")
            window = io.BufferedReader(_Window(opened, start, length))  # type: ignore[type-var]
            with tarfile.open(fileobj=window, mode="r:") as archive:
                for entry in archive:
                    name = entry.name.removesuffix("/") if entry.isdir() else entry.name
                    if not allowed.fullmatch(name):
                        problem = f"holds {name!r}, which has no place there; nothing was written"
                        raise UserError(f"{where}: {problem}")
                    if entry.isdir():
                        continue
                    if not entry.isreg() or entry.issparse():
                        raise UserError(f"{where}: {name!r} is no plain file; nothing was written")
                    if entry.offset_data + entry.size > length:
                        raise UserError(
                            f"{where}: ends in the middle of {name!r}; download it again"
                        )
                    yield Member(name, file, start + entry.offset_data, entry.size)
    except OSError as error:
        raise UserError(f"{file}: can't be read ({error.strerror}); check the file") from None
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise UserError(f"{where}: not a whole tar archive ({error}); download it again") from None


class _Window(io.RawIOBase):
    """A part of a file, read as a file of its own."""

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        self._file, self._start, self._length, self._position = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._length - self._position))
        self._file.seek(self._start + self._position)
        data = self._file.read(count)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
