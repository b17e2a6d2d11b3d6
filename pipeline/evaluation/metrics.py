"""Hits as integers, and confidence intervals of errors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from statistics import NormalDist


@dataclass(frozen=True)
class Counts:
    """Hits over some images; errors are in percent.

    An error of no images is a `ZeroDivisionError`. `micronats` is the sum of the images'
    cross-entropies, each in whole millionths of a nat, where known. It is not compared, since the
    last bits of a probability depend on the batch it came from.
    """

    top1_hits: int
    top5_hits: int
    images: int
    micronats: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.top1_hits <= self.top5_hits <= self.images:
            raise ValueError(f"not 0 <= top-1 hits <= top-5 hits <= images: {self}")

    @property
    def top1_error(self) -> float:
        return 100 * (self.images - self.top1_hits) / self.images

    @property
    def top5_error(self) -> float:
        return 100 * (self.images - self.top5_hits) / self.images

    def metrics(self, num_classes: int) -> Mapping[str, float]:
        """Errors and loss by the names they have in MLflow; `loss` is in nats per image.

        Of five classes or fewer there is no top-5 error.
        """
        values: dict[str, float] = {"top1_error": self.top1_error}
        if has_top5(num_classes):
            values["top5_error"] = self.top5_error
        if self.micronats is not None:
            values["loss"] = self.micronats / 1e6 / self.images
        return values


@dataclass(frozen=True)
class Interval:
    """Bounds in percent, both included."""

    low: float
    high: float

    def __contains__(self, error: float) -> bool:
        return self.low <= error <= self.high


def has_top5(num_classes: int | None) -> bool:
    """Whether a top-5 error can be other than 0: with more than five classes, or unknown."""
    return num_classes is None or num_classes > 5


def wilson_interval(errors: int, images: int, confidence: float = 0.95) -> Interval:
    """Return Wilson's score interval of an error rate, in percent (Wilson 1927).

    Unlike the normal approximation it stays within 0–100 and has a width without any error.
    """
    if not 0 <= errors <= images or images == 0:
        raise ValueError(f"{errors} errors of {images} images")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate = errors / images
    center = rate + z * z / (2 * images)
    spread = z * sqrt(rate * (1 - rate) / images + (z / (2 * images)) ** 2)
    scale = 1 + z * z / images
    # Rounding must not push a bound past a rate of exactly 0 or 1.
    low = (center - spread) / scale if errors else 0.0
    high = (center + spread) / scale if errors < images else 1.0
    return Interval(low=100 * low, high=100 * high)
