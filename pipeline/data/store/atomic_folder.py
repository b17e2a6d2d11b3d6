"""A folder that appears complete or not at all, however its writer ends."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pipeline.runtime.errors import UserError
from pipeline.runtime.storage import file_lock, is_full, sync


@contextmanager
def new_folder(target: Path, *, resume: bool = False) -> Iterator[Path]:
    """Yield a hidden folder beside `target` that is renamed to `target` when the block succeeds.

    When the block raises, the hidden folder is removed; when the process is killed, the next
    `new_folder(target)` removes it. With `resume` it stays, and the next call yields it again. One
    process at a time writes a target: the kernel releases the lock of a process that ends, which
    tells a running writer from what a killed one left. Raises `UserError` when `target` exists, is
    being written, or can't be written.
    """
    partial = target.with_name(f".{target.name}.partial")
    lock = target.with_name(f".{target.name}.lock")
    with ExitStack() as locked:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            refusal = f"{target}: another process is writing it; wait until that one is done"
            locked.enter_context(file_lock(lock, refusal))
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
                lock.unlink()


def _unwritable(target: Path, error: OSError) -> UserError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    fix = "make room" if is_full(error) else "choose a folder that you may write to"
    return UserError(f"{target}: can't be written ({reason}); {fix}")
