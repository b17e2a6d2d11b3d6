"""One function on many items, in worker processes of Ray: on this machine, or a whole cluster."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

from pipeline.runtime.errors import UserError

Item = TypeVar("Item")

_TRIES = 4  # of an item whose process dies


def parallel_map(
    function: Callable[[Item], None],
    items: Sequence[Item],
    num_workers: int,
    on_finished: Callable[[int], None],
) -> None:
    """Call `function` on every item, `num_workers` at a time; 0: in this process.

    `on_finished` is called with the number of each finished item, in any order. The first
    `UserError` or `OSError` of an item is raised here, and items that have not started are dropped;
    an item whose process dies at every try is a `UserError`. A running Ray is joined.
    """
    if num_workers == 0:
        for number, item in enumerate(items):
            function(item)
            on_finished(number)
        return
    with processes(num_workers):
        _run_on_ray(function, items, num_workers, on_finished)


def processes(num_workers: int) -> AbstractContextManager[None]:
    """Run Ray with `num_workers` CPUs while inside; a Ray that was running is left running."""
    from pipeline.runtime.ray_session import LOCAL, ray_session

    return ray_session(os.environ.get("RAY_ADDRESS", LOCAL), num_cpus=num_workers)


def _run_on_ray(
    function: Callable[[Item], None],
    items: Sequence[Item],
    num_workers: int,
    on_finished: Callable[[int], None],
) -> None:
    import ray

    task = ray.remote(num_cpus=1, max_retries=_TRIES - 1)(function)
    waiting = list(enumerate(items))[::-1]
    running: dict[ray.ObjectRef, int] = {}
    while waiting or running:
        while waiting and len(running) < num_workers:  # so that few items are in memory
            number, item = waiting.pop()
            running[task.remote(item)] = number
        done, _ = ray.wait(list(running))
        for reference in done:
            number = running.pop(reference)
            try:
                ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, UserError | OSError):
                    raise error.cause from None
                raise
            except ray.exceptions.RayError as error:
                raise UserError(_failure_message(error)) from None
            on_finished(number)


def _failure_message(error: Exception) -> str:
    first_line = str(error).strip().splitlines()[0]
    return (
        f"a worker process ended, {_TRIES} times ({type(error).__name__}: {first_line}); free "
        "memory or use fewer workers, and run the same command again"
    )
