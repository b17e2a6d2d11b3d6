"""Images per second of several tasks on one machine, measured in turns.

A machine's speed drifts, so that two tasks measured one after the other differ without a reason.
Here each round gives every task a turn (A B C A B C …), and ratios are taken within a round.
"""

import time
from collections.abc import Callable, Container, Generator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import torch

from pipeline.runtime.distributed import synchronize

# Yields the number of images of each batch once it is done, without end.
TimedTask = Generator[int, None, None]
Name = TypeVar("Name")
# Called with the number of rounds done and of all rounds.
ProgressCallback = Callable[[int, int], None]

# The share of a turn that comes before the clock starts, to use up what was prefetched between
# two turns.
_WARMUP_SHARE = 0.2


@dataclass(frozen=True)
class Series:
    """One value a round: images per second, or a ratio of them."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def lowest(self) -> float:
        return min(self.values)

    @property
    def highest(self) -> float:
        return max(self.values)

    def over(self, other: "Series") -> "Series":
        """Return the ratio to `other`, round by round."""
        return Series(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))

    def slower(self, other: "Series") -> "Series":
        """Return the lower rate of the two, round by round."""
        return Series(tuple(map(min, self.values, other.values)))


def take_turns(
    tasks: Mapping[Name, TimedTask],
    rounds: int,
    seconds: float,
    device: torch.device,
    progress: ProgressCallback = lambda done, total: None,
    *,
    steady: Container[Name] = (),
) -> dict[Name, Series]:
    """Measure the images per second of each task, `rounds` times after a round of warm-up.

    A turn is whole batches until `seconds` are over, after a fifth of it as warm-up. `steady`
    tasks, which prefetch nothing, are warmed up in the first round only.
    """
    rates: dict[Name, list[float]] = {name: [] for name in tasks}
    for number in range(rounds + 1):
        for name, task in tasks.items():
            if number == 0 or name not in steady:
                _rate(task, seconds * _WARMUP_SHARE, device)
            if number > 0:
                rates[name].append(_rate(task, seconds, device))
        progress(number + 1, rounds + 1)
    return {name: Series(tuple(values)) for name, values in rates.items()}


def _rate(task: TimedTask, seconds: float, device: torch.device) -> float:
    images = 0
    started = clock(device)
    while True:
        images += next(task)
        if time.perf_counter() - started >= seconds:
            return images / (clock(device) - started)


def clock(device: torch.device) -> float:
    """Return the time in seconds, once the device has done all its queued work."""
    synchronize(device)
    return time.perf_counter()
