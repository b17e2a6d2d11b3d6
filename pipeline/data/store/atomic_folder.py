"""A folder that appears whole or not at all, however its writer ends."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.runtime.errors import UserError
from pipeline.runtime.storage import is_full, sync


@contextmanager
def new_folder(target: Path, *, resume: bool = False) -> Iterator[Path]:
    """Yield a hidden folder beside `target` that becomes `target` when the block ends well.

    When the block raises, the hidden folder is removed; when the process is killed, the next
    `new_folder(target)` removes it. With `resume` it stays, and the next one yields it again. One
    process at a time writes a target: a lock, which the kernel drops with its process, tells a
    living writer from what a dead one left. Raises `UserError` when `target` exists, is being
    written, or can't be written.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(target)
    except OSError as error:
        raise _unwritable(target, error) from None
    try:
        if partial.exists() and not resume:
            shutil.rmtree(partial)
        if target.exists():
            raise UserError(f"{target}: exists already; remove it or choose another place")
        partial.mkdir(exist_ok=resume)
        yield partial
        sync(partial)
        partial.rename(target)
        sync(target.parent)
    except OSError as error:
        # A full disk shows anywhere in the block. Other errors may come from what it reads.
        if is_full(error) or error.filename in (str(partial), str(target)):
            raise _unwritable(target, error) from None
        raise
    finally:
        if not resume:
            shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):
            _lock_path(target).unlink()
        os.close(lock)


def _lock_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


def _lock(target: Path) -> int:
    """Return the descriptor of the locked file beside `target`."""
    path = _lock_path(target)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still_at(path, descriptor):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise UserError(
                f"{target}: another process is writing it; wait until that one is done"
            ) from None
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_still_at(path: Path, descriptor: int) -> bool:
    """Whether nobody removed the lock file between our opening and our locking it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _unwritable(target: Path, error: OSError) -> UserError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    mend = "make room" if is_full(error) else "choose a folder that you may write to"
    return UserError(f"{target}: can't be written ({reason}); {mend}")
