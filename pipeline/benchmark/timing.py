"""Rates of several things on one machine, taken in turns.

A machine's speed drifts, so that two things measured one after the other differ without a reason.
Here every round gives each of them a turn (A B C A B C …), and a ratio is taken within its round.
"""

import time
from collections.abc import Callable, Container, Generator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import torch

# Yields the number of images done, a batch at a time, without an end.
TimedTask = Generator[int, None, None]
Name = TypeVar("Name")
# Is told the rounds that are done, and of all.
ProgressCallback = Callable[[int, int], None]

# Of a turn, taken before the clock starts: what was loaded ahead between two turns is used up.
_SETTLING_SHARE = 0.2


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
    subjects: Mapping[Name, TimedTask],
    rounds: int,
    seconds: float,
    device: torch.device,
    progress: ProgressCallback = lambda done, total: None,
    *,
    steady: Container[Name] = (),
) -> dict[Name, Series]:
    """Measure the images per second of each subject, `rounds` times; a first round isn't counted.

    A turn lasts for whole batches until `seconds` are over, after a fifth of it to settle. The
    `steady` ones, which load nothing ahead, settle in the first round only.
    """
    rates: dict[Name, list[float]] = {name: [] for name in subjects}
    for number in range(rounds + 1):
        for name, subject in subjects.items():
            if number == 0 or name not in steady:
                _rate(subject, seconds * _SETTLING_SHARE, device)
            if number > 0:
                rates[name].append(_rate(subject, seconds, device))
        progress(number + 1, rounds + 1)
    return {name: Series(tuple(values)) for name, values in rates.items()}


def _rate(subject: TimedTask, seconds: float, device: torch.device) -> float:
    images = 0
    started = clock(device)
    while True:
        images += next(subject)
        if time.perf_counter() - started >= seconds:
            return images / (clock(device) - started)


def clock(device: torch.device) -> float:
    """Return seconds, once what was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # what was asked of the GPU is done only then
    return time.perf_counter()
