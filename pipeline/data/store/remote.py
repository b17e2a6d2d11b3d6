"""Images of a remote data set: read by range, concurrently, with a share cached on local disk.

An epoch reads every image once, in a new order each time. Any image that a cache evicts is then as
likely to be needed next as one that it keeps, so that "least recently used" would have no hits.
Therefore this cache evicts nothing: it keeps a fixed share of the images, as large as the bound
allows, and after the first epoch exactly that share is read from the disk.
"""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from pipeline.config.cluster import Folder
from pipeline.data.store.index import Index
from pipeline.runtime.errors import UserError

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def remote_errors(place: Folder) -> Iterator[None]:
    """Raise `UserError` for any error of the storage's client while a remote `place` is read.

    Each client has exception classes of its own for missing credentials, network or permission.
    """
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(
            f"{place}: can't be read ({error}); `pip install 'ilsvrc[s3]'` is for s3://"
        ) from None
    except Exception as error:
        if isinstance(place, Path):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{place}: can't be read ({reason}); check the address, the credentials and the "
            "network, then run the same command again"
        ) from None


class RemoteShards:
    """The shards of one split, as ranges of remote files."""

    def __init__(
        self, folder: UPath, names: Sequence[str], index: Index, cache: "RangeCache | None"
    ) -> None:
        self._shards = tuple(folder / name for name in names)
        self._index = index
        self._cache = cache

    def read(self, images: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Return the bytes of `images`, fetching those not cached at once; raises `UserError`."""
        found: dict[int, NDArray[np.uint8]] = {}
        for i in images:
            if self._cache and (cached := self._cache.get(i)) is not None:
                found[i] = cached
        missing = [i for i in images if i not in found]
        for i, data in zip(missing, self._fetch(missing), strict=True):
            if len(data) != self._index.sizes[i]:
                raise UserError(f"{self._shard(i)}: ends too early; upload it again")
            found[i] = np.frombuffer(data, np.uint8)
            if self._cache:
                self._cache.put(i, data)
        return [found[i] for i in images]

    def _fetch(self, images: Sequence[int]) -> Sequence[bytes]:
        if not images:
            return []
        starts = [int(self._index.offsets[i]) for i in images]
        ends = [start + int(self._index.sizes[i]) for start, i in zip(starts, images, strict=True)]
        paths = [self._shard(i).path for i in images]
        with remote_errors(self._shard(images[0])):
            return self._shards[0].fs.cat_ranges(paths, starts, ends, on_error="raise")

    def _shard(self, image: int) -> UPath:
        return self._shards[int(self._index.shards[image])]


class RangeCache:
    """Images of one split in a sparse file with room for all, and a file of flags: which it has.

    The processes of a node share it: all write the same bytes to the same place, and an image's
    flag is set after its bytes. Files of an earlier boot may have been cut by a power failure and
    are removed. At most `share` of all bytes are kept; fewer where the disk is full.
    """

    def __init__(self, folder: Path, split: str, index: Index, share: float) -> None:
        self._folder = folder / _BOOT.read_text().strip()
        self._split = split
        self._starts = np.concatenate([[0], np.cumsum(index.sizes)])
        # A random choice, so that each part of an epoch loads equally fast.
        order = np.random.default_rng(0).permutation(len(index.sizes))
        is_within_share = np.cumsum(index.sizes[order]) <= share * self._starts[-1]
        self._is_kept = np.zeros(len(index.sizes), bool)
        self._is_kept[order[is_within_share]] = True

    def __getstate__(self) -> dict[str, Any]:
        # Each process opens the files itself.
        return {name: value for name, value in self.__dict__.items() if name != "_files"}

    @cached_property
    def _files(self) -> "_Files":
        self._folder.mkdir(parents=True, exist_ok=True)
        for other in self._folder.parent.iterdir():
            if other != self._folder:
                shutil.rmtree(other, ignore_errors=True)
        return _Files(
            _open(self._folder / f"{self._split}.images", int(self._starts[-1])),
            _open(self._folder / f"{self._split}.there", len(self._is_kept)),
        )

    def get(self, image: int) -> NDArray[np.uint8] | None:
        """Return the bytes of `image`, or None if they are not cached."""
        if not self._files.flags.content[image]:
            return None
        return self._files.images.content[self._starts[image] : self._starts[image + 1]]

    def put(self, image: int, data: bytes) -> None:
        """Write the bytes of `image` if it is one of those to keep."""
        if self._is_kept[image]:
            with suppress(OSError):
                self._files.images.write(data, int(self._starts[image]))
                self._files.flags.write(b"\1", image)


class _Files(NamedTuple):
    images: "_File"
    flags: "_File"


class _File(NamedTuple):
    """Read through a memory map, written by `pwrite`: on a full disk, writing to a map is fatal."""

    descriptor: int
    content: NDArray[np.uint8]

    def write(self, data: bytes, offset: int) -> None:
        if os.pwrite(self.descriptor, data, offset) != len(data):
            raise OSError(errno.ENOSPC, "no room")


def _open(path: Path, size: int) -> _File:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.truncate(descriptor, size)
    return _File(descriptor, np.memmap(path, np.uint8, mode="r", shape=(size,)).view(np.ndarray))
