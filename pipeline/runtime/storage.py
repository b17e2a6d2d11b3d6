"""Files that are whole or not there, and locks that die with their process."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.runtime.errors import DiskFullError, UserError


def is_full(error: OSError) -> bool:
    """Whether it is for want of room that a file can't be written."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def sync(path: Path) -> None:
    """Wait until the file or folder at `path` has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write `content` beside `path`, sync, rename: no kill or power cut leaves half a file.

    What a killed writer left beside `path` is removed by the next one. Raises `DiskFullError` when
    there is no room, and another `UserError` when the storage can't be written; a file that was at
    `path` then stays as it was.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        kind = DiskFullError if is_full(error) else UserError
        raise kind(
            f"{path}: can't be written: {error.strerror}; free space or mend the permissions and "
            f"run the same command again"
        ) from None


@contextmanager
def held(path: Path, refusal: str | None = None) -> Iterator[None]:
    """Hold the lock file `path`.

    Where another process holds it, raise `UserError(refusal)`, or wait if there is none.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if refusal else 0))
        except BlockingIOError:
            raise UserError(str(refusal)) from None
        yield
