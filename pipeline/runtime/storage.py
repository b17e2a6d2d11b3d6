"""Files written atomically, and file locks that the kernel releases when their process ends."""

import errno
import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO

from pipeline.runtime.errors import DiskFullError, UserError


def is_full(error: OSError) -> bool:
    """Whether `error` says that the disk or the quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


# What file systems answer that lack a call: some FUSE and CIFS, Lustre without -o flock, NFS
# without a lock server.
_NOT_OFFERED = (errno.EINVAL, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@lru_cache  # once in a process
def _warn(text: str) -> None:
    logging.getLogger(__name__).warning("%s", text)


def sync(path: Path) -> None:
    """Wait until the file or folder at `path` has reached the disk, where it offers to say so."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise
        _warn(
            f"{path}: this storage can't say when a change has reached the disk "
            f"({error.strerror}); a power cut may undo the last one"
        )
    finally:
        os.close(descriptor)


def write_atomically(path: Path, *content: bytes | memoryview) -> None:
    """Write the parts of `content` to `path`, whole or not at all, whatever is killed meanwhile.

    They go beside it, are synced and renamed, also for a power cut. The file that a killed writer
    left there is replaced by the next one. Raises `DiskFullError` when there is no room, and
    another `UserError` when the storage can't be written; a file that was at `path` then stays as
    it was.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        kind = DiskFullError if is_full(error) else UserError
        raise kind(
            f"{path}: can't be written: {error.strerror}; free space or fix the permissions and "
            f"run the same command again"
        ) from None


def file_digest(path: Path) -> str:
    """Return the SHA-256 of the file at `path`, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def file_lock(path: Path, refusal: str | None = None) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`, which is created if it isn't there.

    Where another process holds it, raise `UserError(refusal)`, or wait if there is none. The holder
    may remove the file. On storage without locks there is a warning in place of the lock.
    """
    while True:
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if refusal else 0))
            except BlockingIOError:
                raise UserError(str(refusal)) from None
            except OSError as error:
                if error.errno not in _NOT_OFFERED:
                    raise
                _warn(
                    f"{path.parent}: this storage has no file locks ({error.strerror}); nothing "
                    f"keeps two commands from writing the same folder at once"
                )
            if _is_at(path, file):
                yield
                return


def _is_at(path: Path, file: IO[str]) -> bool:
    """Whether the open `file` is the one at `path`, not one that was removed before its locking."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
