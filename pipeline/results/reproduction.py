"""Whether a measured result reproduces the published one of the same key.

The published error counts as exact: a source seldom gives the number of images it was measured on.
So a result *reproduces* it if the 95 % interval of ours contains it, or ours is lower; and `p` is
the probability that a network whose true error is the published one errs at least as far from it
on as many images (the two-sided score test, the inverse of Wilson's interval).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Literal

from pipeline.evaluation.metrics import Counts
from pipeline.results.comparability import published_with_key
from pipeline.results.measured import Measured, MeasuredError, errors_of
from pipeline.results.published import ErrorName, Published


@dataclass(frozen=True)
class Reproduction:
    """Whether a result reproduces `reference`, the published one it is compared with.

    `words` is the status in words, with the difference or the spread.
    """

    status: Literal["reproduced", "within the spread", "not reproduced"]
    words: str
    reference: Published


def check_reproduction(result: Measured) -> Reproduction | None:
    """Compare `result` with what is published under its key, on as many images.

    None if nothing is, and for a training that has not reached its end.
    """
    if not result.complete:
        return None
    return compare_counts(result.counts, published_with_key(result.key))


def compare_counts(counts: Counts, published: Sequence[Published]) -> Reproduction | None:
    """Compare `counts` with the first of the published results on as many images.

    Later results of other sources are re-implementations of the first; the spread reaches to the
    highest error among them.
    """
    candidates = [result for result in published if result.images in (None, counts.images)]
    if not candidates:
        return None
    first, *others = candidates
    misses = [
        miss
        for error in errors_of(counts)
        if (target := first.error(error.name)) is not None
        and (miss := _Miss(error, target)).is_significant
    ]
    if not misses:
        return Reproduction("reproduced", "reproduced", first)
    again = [result for result in others if result.source != first.source]
    if all(_is_within_spread(miss, again) for miss in misses):
        words = f"within the spread of re-implementations ({_spread([first, *again])})"
        return Reproduction("within the spread", words, first)
    words = f"not reproduced by {' and '.join(map(str, misses))}"
    return Reproduction("not reproduced", words, first)


@dataclass(frozen=True)
class _Miss:
    """A measured error beside the published one; both in percent."""

    measured: MeasuredError
    published: float

    @property
    def is_significant(self) -> bool:
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


def _is_within_spread(miss: _Miss, again: Sequence[Published]) -> bool:
    errors = [result.error(miss.measured.name) for result in again]
    return any(error is not None and miss.measured.value <= error for error in errors)


def _spread(results: Sequence[Published]) -> str:
    def span(name: ErrorName) -> str:
        errors = [error for r in results if (error := r.error(name)) is not None]
        if not errors:
            return "–"
        low, high = min(errors), max(errors)
        return f"{low}" if low == high else f"{low}–{high}"

    return f"{span('top-1')} / {span('top-5')}"
