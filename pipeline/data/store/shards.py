"""Tar shards as any WebDataset reader reads them, and the keys that they can hold.

Each image is a member `<key>.<extension>`, followed by its label in `<key>.cls`.
"""

import hashlib
import itertools
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.data.store.manifest import ManifestFile

_SIGNATURES = (
    ("jpg", re.compile(rb"\xff\xd8\xff")),
    ("png", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("webp", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("bmp", re.compile(rb"BM")),
    ("tif", re.compile(rb"II\*\x00|MM\x00\*")),
)
_SIGNAL_SIGNATURE = b"\x93NUMPY"
# WebDataset ends a key at the first dot of its last part, and skips members of folders `__x__`.
_KEY = re.compile(
    r"(?!__[^/]*__/)(?:[^/\x00-\x1f\x7f\ud800-\udfff]+/)*[^/.\x00-\x1f\x7f\ud800-\udfff]+"
)


def image_extension(data: bytes) -> str | None:
    """Return jpg, png, webp, bmp or tif by the first bytes of `data`; None for anything else."""
    return next((name for name, pattern in _SIGNATURES if pattern.match(data)), None)


def _extension(data: bytes) -> str | None:
    return "npy" if data.startswith(_SIGNAL_SIGNATURE) else image_extension(data)


def is_key(key: str) -> bool:
    """Whether a WebDataset reader gives `key` back as it was written."""
    return _KEY.fullmatch(key) is not None and not {".", ".."}.intersection(key.split("/"))


def is_class_folder(name: str) -> bool:
    """Whether shards can hold the images of a class in a folder of that name."""
    return "/" not in name and is_key(f"{name}/image")


def numbered(key: str) -> Iterator[str]:
    """Yield `key`, `key_2`, `key_3` …, of which a caller takes the first that is free."""
    yield key
    yield from (f"{key}_{number}" for number in itertools.count(2))


@dataclass(frozen=True)
class Place:
    """The place of an image's bytes: number of the shard, offset in it in bytes."""

    shard: int
    offset: int


class ShardWriter:
    """Writes images to `<split>-000000.tar`, `<split>-000001.tar` … in `folder`, from `first` on.

    The same images in the same order give the same bytes, on any machine and day. `files` are the
    shards that are complete and have reached the disk.
    """

    def __init__(self, folder: Path, split: str, shard_bytes: float, first: int = 0) -> None:
        self.files: list[ManifestFile] = []
        self._folder = folder
        self._split = split
        self._first = first
        self._shard_bytes = shard_bytes
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()

    def add(self, key: str, data: bytes, label: int) -> Place:
        """Append an image or signal; a new shard starts where this one would pass `shard_bytes`."""
        extension = _extension(data)
        if extension is None or not is_key(key):
            raise ValueError(f"{key!r}: not a key, or its data is in no known format")
        image = _member(f"{key}.{extension}", data)
        pieces = (*image, *_member(f"{key}.cls", str(label).encode()))
        size = sum(map(len, pieces))
        if self._file and self._file.tell() + size + tarfile.RECORDSIZE > self._shard_bytes:
            self.close()
        number = self._first + len(self.files)
        if self._file is None:
            self._file = (self._folder / f"{self._split}-{number:06d}.tar").open("wb")
            self._digest = hashlib.sha256()
        header, _, _ = image
        place = Place(number, self._file.tell() + len(header))
        self._write(self._file, pieces)
        return place

    def close(self) -> None:
        """Complete the open shard, if there is one, and wait until it has reached the disk."""
        if self._file:
            with self._file as file:
                self._write(file, [bytes(2 * tarfile.BLOCKSIZE)])
                self._write(file, [bytes(-file.tell() % tarfile.RECORDSIZE)])
                file.flush()
                os.fsync(file.fileno())
                name, size = Path(file.name).name, file.tell()
            self.files.append(ManifestFile(name=name, size=size, sha256=self._digest.hexdigest()))
            self._file = None

    def _write(self, file: BinaryIO, pieces: Sequence[bytes]) -> None:
        for piece in pieces:
            self._digest.update(piece)
        file.writelines(pieces)


def _member(name: str, data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return a tar member: header (several blocks for a long or odd name), data, zeros."""
    return _header(name, len(data)), data, bytes(-len(data) % tarfile.BLOCKSIZE)


# The header of a member without name or content. Time, user and group are 0, the mode is 0o644.
_BLANK = tarfile.TarInfo().tobuf(tarfile.PAX_FORMAT)
_SIZE, _CHECKSUM = slice(124, 135), slice(148, 156)
_BLANK_SUM = sum(_BLANK) - sum(_BLANK[_CHECKSUM]) + sum(b" " * 8) - sum(_BLANK[_SIZE])


def _header(name: str, size: int) -> bytes:
    """Return the header that `tarfile` writes; for a usual name by a faster way."""
    octal = b"%011o" % size
    if not name.isascii() or len(name) > tarfile.LENGTH_NAME or len(octal) > 11:
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.PAX_FORMAT)
    text = name.encode()
    header = bytearray(_BLANK)
    header[: len(text)] = text
    header[_SIZE] = octal
    header[_CHECKSUM] = b"%06o\0 " % (_BLANK_SUM + sum(text) + sum(octal))
    return bytes(header)
