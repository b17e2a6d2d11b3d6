"""Whether two networks that saw the same images differ by more than chance."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from pipeline.evaluation.metrics import Counts, Interval
from pipeline.evaluation.predictions import Predictions
from pipeline.runtime.errors import UserError

_RESAMPLES = 10_000


@dataclass(frozen=True)
class PairedComparison:
    """Two networks on the same images, by their k highest classes.

    `only_first` images were right with the first network alone, `only_second` with the second
    alone. `difference` is the second's error minus the first's in points, `interval` that of the
    paired bootstrap (95 %), `p_value` that of McNemar's exact test, two-sided: how likely so
    unequal a split of the images that only one of them had right is, were both networks as good.
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
    """One preprocessing: what it changes, its hits, and how they compare with the declared one's.

    `p_value` is McNemar's for top-1, 1 for the declared preprocessing itself.
    """

    name: str
    counts: Counts
    p_value: float = 1.0
    is_clearly_better: bool = False


def compare_paired(
    first: Predictions, second: Predictions, k: int, seed: int = 0
) -> PairedComparison:
    """Compare by `k` guesses; raises `UserError` where the images or labels aren't the same."""
    refuse_other_images(first, second)
    for one in (first, second):
        one.hits(k)  # refuses unknown labels
    one_right, other_right = first.are_hits(k), second.are_hits(k)
    only_first = int((one_right & ~other_right).sum())
    only_second = int((other_right & ~one_right).sum())
    images = len(first)
    return PairedComparison(
        k=k,
        images=images,
        first_errors=int((~one_right).sum()),
        second_errors=int((~other_right).sum()),
        only_first=only_first,
        only_second=only_second,
        interval=_bootstrap(only_first, only_second, images, seed),
        p_value=mcnemar(only_first, only_second),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p of McNemar's exact test, for images that only one had right."""
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def refuse_other_images(first: Predictions, second: Predictions) -> None:
    """Raise `UserError` where two predictions aren't of the same images in the same order."""
    a, b = first.about, second.about
    if (a.data_digest, a.split) != (b.data_digest, b.split):
        raise UserError(
            f"{a.run} saw {a.split} of {a.data} ({a.data_digest[:8]}), {b.run} {b.split} of "
            f"{b.data} ({b.data_digest[:8]}); evaluate both on the same"
        )
    if first.keys != second.keys or not np.array_equal(first.labels, second.labels):
        raise UserError(f"{a.run} and {b.run} saw other images; evaluate both on the same")


def _bootstrap(only_first: int, only_second: int, images: int, seed: int) -> Interval:
    """Draw the images again, with replacement, and take the middle 95 % of the differences.

    An image counts +1, −1 or 0, so that how many of each are drawn is multinomial.
    """
    agreed = images - only_first - only_second
    shares = np.array([only_first, only_second, agreed]) / images
    drawn = np.random.default_rng(seed).multinomial(images, shares, size=_RESAMPLES)
    differences = 100 * (drawn[:, 0] - drawn[:, 1]) / images
    low, high = np.quantile(differences, [0.025, 0.975])
    return Interval(float(low), float(high))
