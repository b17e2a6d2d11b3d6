"""One function on many items, in processes that Ray runs: on this machine, or all of a cluster."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from pipeline.errors import UserError

Item = TypeVar("Item")

# Ray would otherwise ask the internet, and wait for it.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def run_all(
    function: Callable[[Item], None],
    items: Sequence[Item],
    num_workers: int,
    finished: Callable[[int], None],
) -> None:
    """Call `function` on every item, `num_workers` at a time; 0 stays in this process.

    `finished` is told the numbers of finished items, in any order. The first `UserError` of an item
    is raised here, and the items that have not begun are dropped. A Ray that is up is joined.
    """
    if num_workers == 0:
        for number, item in enumerate(items):
            function(item)
            finished(number)
        return
    with processes(num_workers):
        _run_on_ray(function, items, num_workers, finished)


@contextmanager
def processes(num_workers: int) -> Iterator[None]:
    """Have Ray up, for `num_workers` at a time; one that is up before is left up."""
    import ray

    was_up = ray.is_initialized()
    if not was_up:
        address = os.environ.get("RAY_ADDRESS", "local")
        cpus = {"num_cpus": num_workers} if address == "local" else {}
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **cpus)
    try:
        yield
    finally:
        if not was_up:
            ray.shutdown()


def _run_on_ray(
    function: Callable[[Item], None],
    items: Sequence[Item],
    num_workers: int,
    finished: Callable[[int], None],
) -> None:
    import ray

    task = ray.remote(num_cpus=1, max_retries=3)(function)
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
                if isinstance(error.cause, UserError):
                    raise error.cause from None
                raise
            finished(number)
