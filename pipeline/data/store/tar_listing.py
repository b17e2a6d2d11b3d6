"""What lies where in a tar archive that nobody vouches for: names, offsets and sizes, no unpacking.

Nothing is ever written under a name that an archive gives. An archive with anything but plain files
of expected names is refused, by the name of the first such member.
"""

import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.runtime.errors import UserError


@dataclass(frozen=True, slots=True)
class Member:
    """A plain file of an archive: its bytes are `size` bytes of `file` from `offset` on."""

    name: str
    file: Path
    offset: int
    size: int


def list_members(
    file: Path, allowed: re.Pattern[str], inside: Member | None = None
) -> Iterator[Member]:
    """Yield the plain files of the tar archive `file`, or of the one that is `inside` it.

    Only headers are read. Raises `UserError` for a name that `allowed` doesn't match in full, a
    member that is no plain file (folders of allowed names are passed over), and an archive that
    can't be read, is damaged or ends too early.
    """
    where = f"{file}: {inside.name}" if inside else str(file)
    start, length = (inside.offset, inside.size) if inside else (0, _size(file))
    try:
        with file.open("rb") as opened:
            window = io.BufferedReader(_Window(opened, start, length))  # type: ignore[type-var]
            with tarfile.open(fileobj=window, mode="r:") as archive:
                for entry in archive:
                    yield from _plain(entry, allowed, where, file, start, length)
    except OSError as error:
        raise _unreadable(file, error) from None
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise UserError(f"{where}: not a whole tar archive ({error}); download it again") from None


def _plain(
    entry: tarfile.TarInfo,
    allowed: re.Pattern[str],
    where: str,
    file: Path,
    start: int,
    length: int,
) -> Iterator[Member]:
    name = entry.name.removesuffix("/") if entry.isdir() else entry.name
    if not allowed.fullmatch(name):
        raise UserError(f"{where}: holds {name!r}, which has no place there; nothing was written")
    if entry.isdir():
        return
    if not entry.isreg() or entry.issparse():
        raise UserError(f"{where}: {name!r} is no plain file; nothing was written")
    if entry.offset_data + entry.size > length:
        raise UserError(f"{where}: ends in the middle of {name!r}; download it again")
    yield Member(name, file, start + entry.offset_data, entry.size)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: OSError) -> UserError:
    return UserError(f"{file}: can't be read ({error.strerror}); see to its place")


class _Window(io.RawIOBase):
    """A part of a file as a file of its own."""

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        self._file, self._start, self._length, self._place = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._length}[whence]
        self._place = base + offset
        return self._place

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._length - self._place))
        self._file.seek(self._start + self._place)
        data = self._file.read(count)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
