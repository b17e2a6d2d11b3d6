"""Errors of stored predictions: by class, by pair of classes, by confidence."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.predictions import Predictions


@dataclass(frozen=True)
class ClassErrors:
    """The images of one class, and how many of them are top-1 and top-5 errors."""

    index: int
    images: int
    top1_errors: int
    top5_errors: int


@dataclass(frozen=True)
class Confusion:
    """`images` of the `label_images` of class `label` were taken for class `guess`."""

    label: int
    guess: int
    images: int
    label_images: int


@dataclass(frozen=True)
class Bin:
    """Images whose best guess has a probability between `low` and `high`.

    `confidence` is the mean of that probability, `accuracy` the share that was right, both 0–1.
    """

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Whether probabilities are the accuracies they promise (Guo et al. 2017, §2).

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
    errors = [
        ClassErrors(index, int(images[index]), int(missed[0][index]), int(missed[1][index]))
        for index in np.flatnonzero(images).tolist()
    ]
    return sorted(errors, key=lambda each: (-each.top1_errors / each.images, each.index))


def confusions(predictions: Predictions, count: int) -> list[Confusion]:
    """Return the `count` most frequent confusions of two classes."""
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
    """Return the calibration by `num_bins` bins of equal width of the best guess's probability."""
    rows = np.arange(len(predictions))
    best = predictions.guesses[:, 0].astype(np.int64)
    confidence = predictions.probabilities[rows, best].astype(np.float64)
    right = predictions.are_hits(1)
    bin_of_image = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    bins = [
        Bin(
            low=index / num_bins,
            high=(index + 1) / num_bins,
            images=int(inside.sum()),
            confidence=float(confidence[inside].mean()),
            accuracy=float(right[inside].mean()),
        )
        for index in range(num_bins)
        if (inside := bin_of_image == index).any()
    ]
    gaps = sum(each.images * abs(each.accuracy - each.confidence) for each in bins)
    return Calibration(gaps / len(predictions), tuple(bins))
