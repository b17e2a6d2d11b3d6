"""Faults injected for real: a process killed at each of its changes to what must outlive it."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import sqlalchemy

KillAt = Callable[[Path, int], None]  # in a work's folder, the change before which it is killed


def killed_and_repeated(
    work: Callable[[Path], None], folder: Path, warm_up: Callable[[Path], None], kill_at: KillAt
) -> list[Path]:
    """Have `work` killed before its first change, then before its second, and so on to the last.

    Each time it is called in a new folder of `folder`, by a process that gets SIGKILL there, and
    again by one that does not. The processes are forks of a new one in which `warm_up` was called,
    for what takes long to import; it may start no threads, which forks don't inherit. Returns the
    folders, in the last of which nothing was killed.
    """
    process = multiprocessing.get_context("spawn").Process(
        target=_kill_and_repeat, args=(work, folder, warm_up, kill_at)
    )
    process.start()
    process.join()
    assert process.exitcode == 0, "see the output"
    return sorted(folder.iterdir())


def at_commit(place: Path, number: int) -> None:
    """Have this process killed before a commit to a sqlite store, counted from 0."""
    kill = _countdown(number)
    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "commit", lambda connection: kill())


def at_file_change(place: Path, number: int) -> None:
    """Have this process killed before it changes a file or folder of `place`'s run in Python.

    That is: makes one, opens it to write, renames or removes it.
    """
    kill, run = _countdown(number), f"{place}/run/"

    def on_event(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            changes = isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
        else:
            path, changes = next(iter(arguments), ""), event in _CHANGES
        if changes and str(path).startswith(run):
            kill()

    sys.addaudithook(on_event)


_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.truncate")


def _countdown(number: int) -> Callable[[], None]:
    numbers = count()

    def kill() -> None:
        if next(numbers) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


def _kill_and_repeat(
    work: Callable[[Path], None], folder: Path, warm_up: Callable[[Path], None], kill_at: KillAt
) -> None:
    warm_up(folder.with_name("warm-up"))
    for number in count():
        place = folder / f"{number:03d}"
        place.mkdir(parents=True)
        was_killed = _in_fork(work, place, partial(kill_at, place, number)) == signal.SIGKILL
        assert was_killed or number > 0, "nothing was changed"
        assert _in_fork(work, place) == 0
        if not was_killed:
            return


def _in_fork(work: Callable[[Path], None], place: Path, prepare: Callable[[], None] = list) -> int:
    """Return the signal that ended the fork, 0 if it ended well."""
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL), "the work failed"
        return -code
    status = 1
    try:
        prepare()
        work(place)
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)
