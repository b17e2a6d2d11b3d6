"""Faults injected for real: a process killed at each of its commits to a sqlite store."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path

import sqlalchemy


def killed_and_repeated(
    work: Callable[[Path], None], folder: Path, warm_up: Callable[[Path], None]
) -> list[Path]:
    """Have `work` killed before its first commit, then before its second, and so on to the last.

    Each time it is called in a new folder of `folder`, by a process that gets SIGKILL there, and
    again by one that does not. The processes are forks of a new one in which `warm_up` was called,
    for what takes long to import; it may start no threads, which forks don't inherit. Returns the
    folders, in the last of which nothing was killed.
    """
    process = multiprocessing.get_context("spawn").Process(
        target=_kill_and_repeat, args=(work, folder, warm_up)
    )
    process.start()
    process.join()
    assert process.exitcode == 0, "see the output"
    return sorted(folder.iterdir())


def _kill_and_repeat(
    work: Callable[[Path], None], folder: Path, warm_up: Callable[[Path], None]
) -> None:
    warm_up(folder.with_name("warm-up"))
    for commits in count():
        place = folder / f"{commits:03d}"
        place.mkdir(parents=True)
        was_killed = _in_fork(work, place, commits) == signal.SIGKILL
        assert was_killed or commits > 0, "nothing was committed"
        assert _in_fork(work, place, None) == 0
        if not was_killed:
            return


def _in_fork(work: Callable[[Path], None], place: Path, commits: int | None) -> int:
    """Return the signal that ended the fork, 0 if it ended well."""
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL), "the work failed"
        return -code
    status = 1
    try:
        if commits is not None:
            _kill_after(commits)
        work(place)
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def _kill_after(commits: int) -> None:
    left = commits

    def on_commit(connection: object) -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "commit", on_commit)
