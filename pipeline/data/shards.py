"""Tar shards that any WebDataset reader reads: `<key>.<extension>`, then `<key>.cls`."""

import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_SIGNATURES = (
    ("jpg", re.compile(rb"\xff\xd8\xff")),
    ("png", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("webp", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("bmp", re.compile(rb"BM")),
    ("tif", re.compile(rb"II\*\x00|MM\x00\*")),
)
_SIGNAL_SIGNATURE = b"\x93NUMPY"
# WebDataset ends a key at the first dot of its last part, and skips members in folders `__x__`.
_KEY = re.compile(
    r"(?!__[^/]*__/)(?:[^/\x00-\x1f\x7f\ud800-\udfff]+/)*[^/.\x00-\x1f\x7f\ud800-\udfff]+"
)


def image_extension(data: bytes) -> str | None:
    """Return jpg, png, webp, bmp or tif as the first bytes tell; None for anything else."""
    return next((name for name, pattern in _SIGNATURES if pattern.match(data)), None)


def _extension(data: bytes) -> str | None:
    return "npy" if data.startswith(_SIGNAL_SIGNATURE) else image_extension(data)


def is_key(key: str) -> bool:
    """Whether a WebDataset reader gives `key` back as it was written."""
    parts = key.split("/")
    return _KEY.fullmatch(key) is not None and not {".", ".."}.intersection(parts)


@dataclass(frozen=True)
class Place:
    """Where an image's bytes lie: number of the shard, offset in it in bytes."""

    shard: int
    offset: int


class ShardWriter:
    """Writes images to `<split>-000000.tar`, `<split>-000001.tar` … in `folder`, from `first` on.

    The same images in the same order make the same bytes, on any machine and day.
    """

    def __init__(self, folder: Path, split: str, shard_bytes: float, first: int = 0) -> None:
        self.paths: list[Path] = []
        self._folder = folder
        self._split = split
        self._first = first
        self._shard_bytes = shard_bytes
        self._file: BinaryIO | None = None

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
        if self._file is None:
            number = self._first + len(self.paths)
            self.paths.append(self._folder / f"{self._split}-{number:06d}.tar")
            self._file = self.paths[-1].open("wb")
        header, _, _ = image
        place = Place(self._first + len(self.paths) - 1, self._file.tell() + len(header))
        self._file.writelines(pieces)
        return place

    def close(self) -> None:
        """End the open shard, if there is one."""
        if self._file:
            with self._file as file:
                file.write(bytes(2 * tarfile.BLOCKSIZE))
                file.write(bytes(-file.tell() % tarfile.RECORDSIZE))
            self._file = None


def _member(name: str, data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return a tar member: header (more than one block for a long or strange name), data, zeros."""
    info = tarfile.TarInfo(name)  # time, user and group are 0, the mode is 0o644
    info.size = len(data)
    header = info.tobuf(tarfile.PAX_FORMAT)
    return header, data, bytes(-len(data) % tarfile.BLOCKSIZE)
