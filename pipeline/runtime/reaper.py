"""Ends what is left of a Ray when its command is gone, however that ended, and removes its folder.

Run as a program with the folder as its argument, by nothing but the standard library. It waits for
the end of its standard input, which the command holds open: the kernel closes it even for SIGKILL,
after which Ray's own agents would live on for a minute.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_SECONDS = 10.0


def reap(folder: Path, spared: int | None = None) -> None:
    """Kill this user's processes, except `spared`, that have a file of `folder` open; remove it."""
    deadline = time.monotonic() + _SECONDS
    # Again, since processes that start meanwhile, or end slowly, write into it.
    while folder.exists() and time.monotonic() < deadline:
        for process in _users_of(folder):
            if process not in (os.getpid(), spared):
                with suppress(OSError):
                    os.kill(process, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.02)


def _users_of(folder: Path) -> Iterator[int]:
    prefix = f"{folder}/"
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # of another user, or ended
            if any(str(file.readlink()).startswith(prefix) for file in (process / "fd").iterdir()):
                yield int(process.name)


if __name__ == "__main__":
    command = os.getppid()
    sys.stdin.buffer.read()
    reap(Path(sys.argv[1]), spared=command)
