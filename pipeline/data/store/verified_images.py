"""Which images of a split on a local disk were compared with their digests, remembered on a node.

A comparison is SHA-256 over the image's bytes. All processes of a user on a node share a file with
a byte an image, so that only the first epoch on a node pays, not that of each training. The file's
name is a digest of what the bytes depend on: the boot, since a power cut may lose what was read
before; the split's index, which holds the digests; each shard's device, inode, size, and times of
change, of which no program can set the last (ctime). With any of them new, all is compared again.
"""

import hashlib
import os
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_SECONDS_KEPT = 30 * 86_400


class VerifiedImages:
    """The flags of `num_images` images, in a file named by `identity`; in memory if that is None.

    Where the file can't be kept (a full disk, a home that is read-only), they are in memory too.
    """

    def __init__(self, num_images: int, identity: str | None = None) -> None:
        self._num_images, self._identity = num_images, identity
        self._in_memory = np.zeros(num_images, np.bool_)

    def __getstate__(self) -> dict[str, Any]:
        # Each process opens the file itself.
        return {name: value for name, value in self.__dict__.items() if name != "_file"}

    def __contains__(self, image: int) -> bool:
        return bool(self._in_memory[image]) or bool(self._file and self._file.flags[image])

    def add(self, image: int) -> None:
        self._in_memory[image] = True
        if self._file:
            with suppress(OSError):
                os.pwrite(self._file.descriptor, b"\1", image)

    @cached_property
    def _file(self) -> "_FlagFile | None":
        if self._identity is None:
            return None
        try:
            return _FlagFile(_folder() / self._identity, self._num_images)
        except (OSError, RuntimeError):  # the second where the user has no home
            return None


class _FlagFile:
    """Read through a memory map, written by `pwrite`: on a full disk, writing to a map is fatal."""

    def __init__(self, path: Path, size: int) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_old(path.parent)
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        weakref.finalize(self, os.close, self.descriptor)
        os.utime(self.descriptor)  # is in use
        os.truncate(self.descriptor, size)
        flags = np.memmap(path, np.uint8, mode="r", shape=(size,))
        self.flags: NDArray[np.uint8] = flags.view(np.ndarray)


def identity(index_digest: str, shards: Sequence[Path]) -> str | None:
    """Return the name that a split's flags have on this node, None where that can't be told."""
    digest = hashlib.sha256(index_digest.encode())
    try:
        digest.update(_BOOT.read_bytes())
        for shard in shards:
            found = shard.stat()
            times = (found.st_mtime_ns, found.st_ctime_ns)
            digest.update(f"{found.st_dev} {found.st_ino} {found.st_size} {times}\n".encode())
    except OSError:
        return None
    return digest.hexdigest()


def _folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "ilsvrc" / "verified"


def _remove_old(folder: Path) -> None:
    for path in folder.iterdir():
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - _SECONDS_KEPT:
                path.unlink()
