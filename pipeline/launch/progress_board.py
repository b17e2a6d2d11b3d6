"""What the workers of a job know of each other's progress, and which of them is late.

Workers meet in collectives, in which those ahead wait for the one behind. A worker that takes no
batch may be waiting so; that the job hangs is seen only from the progress of all.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass

import torch

from pipeline.runtime.background import in_background
from pipeline.runtime.distributed import Worker

_LEFT = "left"


@dataclass(frozen=True)
class WorkerProgress:
    """What a worker says of itself.

    `position` counts the steps that it has done, and of the next one the share of the batches that
    it has taken. `seconds` have passed since it took the last. Between batches of an evaluation it
    `is_alone`: it waits for no other worker.
    """

    position: float
    seconds: float
    is_alone: bool


@dataclass(frozen=True)
class KnownProgress:
    """What a worker said `seconds_ago`, and nothing since; None where it has never spoken."""

    said: WorkerProgress | None
    seconds_ago: float

    @property
    def position(self) -> float:
        return self.said.position if self.said else 0

    @property
    def seconds(self) -> float:
        """Seconds since its last batch, as far as is known."""
        return self.seconds_ago + (self.said.seconds if self.said else 0)


def late_workers(
    known: Mapping[int, KnownProgress], rank: int, timeout: float, delay: float
) -> list[int]:
    """Return the workers for which the job hangs, as worker `rank` sees it; none while it doesn't.

    The job hangs when no worker has taken a batch for `timeout` seconds, or worker `rank` alone
    has not where it waits for no other, or another's process has been silent for so long. What the
    others do is known `delay` seconds later. Where all stand still, those are late that are silent,
    or else those behind the others. One that has never spoken may still prepare for its work.
    """
    own = known[rank].said
    if own and own.is_alone and own.seconds > timeout:
        return [rank]
    begun = {each: one for each, one in known.items() if one.said}
    if silent := _silent(begun, timeout + delay):
        return silent
    limits = {each: timeout + delay * (each != rank) for each in known}
    if any(known[each].seconds <= limit for each, limit in limits.items()):
        return []
    if silent := _silent(known, timeout / 2):
        return silent
    last = min(one.position for one in known.values())
    return sorted(each for each, one in known.items() if one.position == last)


def _silent(known: Mapping[int, KnownProgress], limit: float) -> list[int]:
    silent = sorted(rank for rank, one in known.items() if one.seconds_ago > limit)
    # While worker 0 is stopped, nothing is heard of anyone: the store is in its process.
    return [0] if 0 in silent and len(silent) == len(known) - 1 else silent


class ProgressBoard:
    """Carries the progress of every worker to all others, through the store of torch.distributed.

    What a worker does is known to the others within `delay` seconds.
    """

    def __init__(self, worker: Worker, delay: float) -> None:
        self._worker, self._interval = worker, delay / 2  # until said, and until read
        others = set(range(worker.world_size)) - {worker.rank}
        # By rank: its last words, and since when they are known.
        self._heard = dict.fromkeys(others, (b"", time.monotonic()))

    @contextmanager
    def exchanging(self, own: Callable[[], WorkerProgress]) -> Iterator[None]:
        """Say `own` progress, and hear the others', while inside."""
        if self._worker.world_size == 1:
            yield
            return
        # A thread of its own, since calls of the store wait while worker 0's process is stopped.
        with in_background("progress", lambda is_over: self._exchange(own, is_over), patience=1):
            yield

    def known(self, own: WorkerProgress) -> dict[int, KnownProgress]:
        """Return the progress of all workers that are watched now, by rank."""
        now = time.monotonic()
        others = {
            rank: KnownProgress(WorkerProgress(*json.loads(words)) if words else None, now - since)
            for rank, (words, since) in list(self._heard.items())
            if words != _LEFT.encode()
        }
        return {**others, self._worker.rank: KnownProgress(own, 0)}

    def _exchange(self, own: Callable[[], WorkerProgress], is_over: threading.Event) -> None:
        group = torch.distributed.group.WORLD
        assert group is not None
        # A connection of its own: the group's may be waiting in a collective.
        store = group.get_group_store().clone()
        keys = {rank: f"progress/{rank}" for rank in range(self._worker.world_size)}
        own_key = keys.pop(self._worker.rank)
        with suppress(RuntimeError):  # worker 0 is gone, and the job with it
            while not is_over.is_set():
                store.set(own_key, json.dumps(astuple(own())))
                there = [rank for rank, key in keys.items() if store.check([key])]
                words = store.multi_get([keys[rank] for rank in there])
                for rank, word in zip(there, words, strict=True):
                    if self._heard[rank][0] != word:
                        self._heard[rank] = word, time.monotonic()
                is_over.wait(self._interval)
            store.set(own_key, _LEFT)
