"""Whether two networks, evaluated on the same images, differ by more than chance."""

from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.metrics import Counts, Interval
from pipeline.evaluation.predictions import Predictions
from pipeline.runtime.errors import UserError

_RESAMPLES = 10_000


@dataclass(frozen=True)
class PairedComparison:
    """Two networks on the same images, by their k highest classes.

    `only_first` images were right with the first network alone, `only_second` with the second
    alone. `difference` is the second's error minus the first's in points, `interval` that of the
    paired bootstrap (95 %), `p_value` that of McNemar's exact test, two-sided: the probability of
    so unequal a split of the images that only one had right, if both were equally good.
    """

    k: int
    images: int
    first_errors: int
    second_errors: int
    only_first: int
    only_second: int
    interval: Interval
    p_value: float

    @property
    def difference(self) -> float:
        return 100 * (self.second_errors - self.first_errors) / self.images


@dataclass(frozen=True)
class PreprocessingTrial:
    """One preprocessing, named by what it changes, and its hits against those of the declared one.

    `p_value` is McNemar's for top-1, 1 for the declared preprocessing itself.
    """

    name: str
    counts: Counts
    num_classes: int
    p_value: float = 1.0
    is_clearly_better: bool = False


def compare_paired(
    first: Predictions, second: Predictions, k: int, seed: int = 0
) -> PairedComparison:
    """Compare by `k` guesses; raises `UserError` if images or labels differ, or are unknown."""
    refuse_other_images(first, second)
    images = len(first)
    first_errors, second_errors = images - first.hits(k), images - second.hits(k)
    only_first = int((first.are_hits(k) & ~second.are_hits(k)).sum())
    only_second = int((second.are_hits(k) & ~first.are_hits(k)).sum())
    return PairedComparison(
        k=k,
        images=images,
        first_errors=first_errors,
        second_errors=second_errors,
        only_first=only_first,
        only_second=only_second,
        interval=_bootstrap(only_first, only_second, images, seed),
        p_value=mcnemar(only_first, only_second),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test, from images only one had right."""
    from scipy.stats import binomtest  # takes a second

    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def refuse_other_images(first: Predictions, second: Predictions) -> None:
    """Raise `UserError` unless both are of the same images in the same order."""
    a, b = first.metadata, second.metadata
    if (a.data_digest, a.split) != (b.data_digest, b.split):
        raise UserError(
            f"{a.run} saw {a.split} of {a.data} ({a.data_digest[:8]}), {b.run} {b.split} of "
            f"{b.data} ({b.data_digest[:8]}); evaluate both on the same"
        )
    if first.keys != second.keys or not np.array_equal(first.labels, second.labels):
        raise UserError(f"{a.run} and {b.run} saw other images; evaluate both on the same")


def _bootstrap(only_first: int, only_second: int, images: int, seed: int) -> Interval:
    """Return the paired bootstrap's 95 % interval: images are drawn again with replacement.

    An image counts +1, −1 or 0, so that the numbers of each drawn are multinomial.
    """
    agreed = images - only_first - only_second
    shares = np.array([only_first, only_second, agreed]) / images
    drawn = np.random.default_rng(seed).multinomial(images, shares, size=_RESAMPLES)
    differences = 100 * (drawn[:, 0] - drawn[:, 1]) / images
    low, high = np.quantile(differences, [0.025, 0.975])
    return Interval(float(low), float(high))
