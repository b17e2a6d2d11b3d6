"""Whether a measured result reproduces the published one of the same key.

The published error counts as exact: a source seldom says of which images it is. So a result
*reproduces* it where the 95 % interval of ours holds it, or ours is lower; and `p` is the chance
that a network whose true error is the published one errs at least as far from it on as many images
(the two-sided score test, which is Wilson's interval turned round).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Literal

from pipeline.evaluation.metrics import Counts
from pipeline.results.comparability import alike
from pipeline.results.measured import Measured, MeasuredError, errors_of
from pipeline.results.published import Published


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a result beside `against`, the published one it is held against."""

    kind: Literal["reproduced", "within the spread", "not reproduced"]
    words: str
    against: Published


def verdict(result: Measured) -> Verdict | None:
    """Hold `result` against what is published of its key, on as many images.

    None where there is no such result, and for a training that has not reached its end.
    """
    if result.counts is None or not result.complete:
        return None
    return hold_against(result.counts, alike(result.key))


def hold_against(counts: Counts, published: Sequence[Published]) -> Verdict | None:
    """Hold `counts` against the first of the results on as many images.

    Where others published the same again, theirs are its re-implementations, and the spread
    reaches to the highest error among them.
    """
    rivals = [result for result in published if result.images in (None, counts.images)]
    if not rivals:
        return None
    first, *others = rivals
    misses = [
        miss
        for error in errors_of(counts)
        if (theirs := error_named(first, error.name)) is not None
        and (miss := _Miss(error, theirs)).is_outside
    ]
    if not misses:
        return Verdict("reproduced", "reproduced", first)
    again = [result for result in others if result.source != first.source]
    if all(_is_reached(miss, again) for miss in misses):
        words = f"within the spread of re-implementations ({_spread([first, *again])})"
        return Verdict("within the spread", words, first)
    words = f"not reproduced by {' and '.join(map(str, misses))}"
    return Verdict("not reproduced", words, first)


def error_named(result: Published, name: str) -> float | None:
    """Return the top-1 or the top-5 error of a published result."""
    return result.top1_error if name == "top-1" else result.top5_error


@dataclass(frozen=True)
class _Miss:
    measured: MeasuredError
    published: float

    @property
    def is_outside(self) -> bool:
        return self.measured.interval.low > self.published

    @property
    def p(self) -> float:
        rate, images = self.published / 100, self.measured.images
        deviation = sqrt(rate * (1 - rate) / images)
        if deviation == 0.0:
            return 0.0
        z = (self.measured.errors / images - rate) / deviation
        return 2 * NormalDist().cdf(-abs(z))

    def __str__(self) -> str:
        points = self.measured.value - self.published
        chance = "p < 0.0001" if self.p < 1e-4 else f"p = {self.p:.2g}"
        return f"{points:.2f} points of {self.measured.name} ({chance})"


def _is_reached(miss: _Miss, again: Sequence[Published]) -> bool:
    theirs = [error_named(result, miss.measured.name) for result in again]
    return any(error is not None and miss.measured.value <= error for error in theirs)


def _spread(results: Sequence[Published]) -> str:
    def span(name: str) -> str:
        errors = [error for r in results if (error := error_named(r, name)) is not None]
        if not errors:
            return "–"
        low, high = min(errors), max(errors)
        return f"{low}" if low == high else f"{low}–{high}"

    return f"{span('top-1')} / {span('top-5')}"
