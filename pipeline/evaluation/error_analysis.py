"""What kept predictions say, with no network run again: by class, by pair, by confidence."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.predictions import Predictions


@dataclass(frozen=True)
class ClassErrors:
    """Of one class: how many images it has, and how many of them top-1 and top-5 missed."""

    index: int
    images: int
    top1_errors: int
    top5_errors: int


@dataclass(frozen=True)
class Confusion:
    """`images` of class `label` were taken for class `guess`; `label_images` is how many it has."""

    label: int
    guess: int
    images: int
    label_images: int


@dataclass(frozen=True)
class Bin:
    """Images whose best guess was held to be right with a probability between `low` and `high`.

    `confidence` is the mean of that probability, `accuracy` the share that was right, both 0–1.
    """

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Whether probabilities mean what they say (Guo et al. 2017, §2).

    `expected_error` is the mean over images of |accuracy − confidence| of their bin, 0–1. Empty
    bins are left out.
    """

    expected_error: float
    bins: tuple[Bin, ...]


def class_errors(predictions: Predictions) -> list[ClassErrors]:
    """Return the errors of every class that has images, the most top-1 errors (in %) first."""
    num_classes = predictions.probabilities.shape[1]

    def count(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(predictions.labels[chosen], minlength=num_classes)

    images = count(predictions.labels >= 0)
    missed = [count((predictions.labels >= 0) & ~predictions.are_hits(k)) for k in (1, 5)]
    found = [
        ClassErrors(index, int(images[index]), int(missed[0][index]), int(missed[1][index]))
        for index in np.flatnonzero(images).tolist()
    ]
    return sorted(found, key=lambda one: (-one.top1_errors / one.images, one.index))


def confusions(predictions: Predictions, count: int) -> list[Confusion]:
    """Return the `count` pairs of classes of which most images were taken for the other."""
    num_classes = predictions.probabilities.shape[1]
    labels, guesses = predictions.labels, predictions.guesses[:, 0].astype(np.int64)
    wrong = (labels >= 0) & (guesses != labels)
    pairs, images = np.unique(labels[wrong] * num_classes + guesses[wrong], return_counts=True)
    sizes = np.bincount(labels[labels >= 0], minlength=num_classes)
    worst = np.argsort(-images, kind="stable")[:count]
    return [
        Confusion(pair // num_classes, pair % num_classes, number, int(sizes[pair // num_classes]))
        for pair, number in zip(pairs[worst].tolist(), images[worst].tolist(), strict=True)
    ]


def calibration(predictions: Predictions, num_bins: int = 15) -> Calibration:
    """Put images into `num_bins` bins of equal width by the probability of their best guess."""
    rows = np.arange(len(predictions))
    best = predictions.guesses[:, 0].astype(np.int64)
    confidence = predictions.probabilities[rows, best].astype(np.float64)
    right = predictions.are_hits(1)
    places = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    bins = [
        Bin(
            low=place / num_bins,
            high=(place + 1) / num_bins,
            images=int(inside.sum()),
            confidence=float(confidence[inside].mean()),
            accuracy=float(right[inside].mean()),
        )
        for place in range(num_bins)
        if (inside := places == place).any()
    ]
    gaps = sum(one.images * abs(one.accuracy - one.confidence) for one in bins)
    return Calibration(gaps / len(predictions), tuple(bins))
