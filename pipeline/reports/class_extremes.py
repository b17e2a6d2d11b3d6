"""The classes with the highest and lowest error of a run, with images of both."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.data.store.store import Split
from pipeline.evaluation.predictions import Predictions
from pipeline.reports.figure_style import data_uri

_THUMBNAIL_SIDE = 96


@dataclass(frozen=True)
class Thumbnail:
    """An image of a class as a data URI; the caption is the predicted class and its probability."""

    key: str
    uri: str
    caption: str
    is_right: bool


@dataclass(frozen=True)
class ClassResult:
    """`top1_error` in percent over the images of one class."""

    name: str
    images: int
    top1_error: float
    thumbnails: tuple[Thumbnail, ...]


@dataclass(frozen=True)
class ClassExtremes:
    worst: tuple[ClassResult, ...]
    best: tuple[ClassResult, ...]


def find_class_extremes(
    predictions: Predictions, split: Split, num_classes: int = 4, num_thumbnails: int = 4
) -> ClassExtremes:
    """Return the classes of highest and of lowest top-1 error, no class twice.

    The worst classes show the wrong predictions of highest probability, the best ones the right
    predictions of highest probability. Of classes with equal errors the first is taken.
    """
    labels, wrong = predictions.labels, predictions.ranks > 0
    images = np.bincount(labels[labels >= 0])
    classes = np.flatnonzero(images)
    missed = np.bincount(labels[(labels >= 0) & wrong], minlength=len(images))
    errors = missed[classes] / images[classes]
    num_classes = min(num_classes, len(classes) // 2)
    positions = {key: i for i, key in enumerate(split.keys)}

    def thumbnails(label: int, right: bool) -> tuple[Thumbnail, ...]:
        guesses = predictions.guesses[:, 0]
        chosen = np.flatnonzero((labels == label) & ((guesses == label) == right))
        probabilities = predictions.probabilities[chosen, guesses[chosen]].astype(np.float32)
        order = chosen[np.argsort(-probabilities, kind="stable")]
        present = [i for i in order if predictions.keys[i] in positions][:num_thumbnails]
        return tuple(
            Thumbnail(
                predictions.keys[i],
                _thumbnail_uri(split, positions[predictions.keys[i]]),
                f"{_name(predictions, guesses[i])} {predictions.probabilities[i, guesses[i]]:.2f}",
                right,
            )
            for i in present
        )

    def results(chosen: Sequence[int], right: bool) -> tuple[ClassResult, ...]:
        return tuple(
            ClassResult(
                _name(predictions, classes[i]),
                int(images[classes[i]]),
                100 * float(errors[i]),
                thumbnails(classes[i], right),
            )
            for i in chosen
        )

    worst = np.argsort(-errors, kind="stable")[:num_classes].tolist()
    others = [i for i in np.argsort(errors, kind="stable").tolist() if i not in worst]
    return ClassExtremes(results(worst, right=False), results(others[:num_classes], right=True))


def _name(predictions: Predictions, label: int) -> str:
    """Return the first of a class's synonyms, "tench" of "tench, Tinca tinca"."""
    return predictions.classes[label].name.partition(",")[0]


def _thumbnail_uri(split: Split, index: int) -> str:
    with Image.open(io.BytesIO(split.encoded(index).tobytes())) as file:
        image = file.convert("RGB")
    if max(image.size) > _THUMBNAIL_SIDE:
        image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=80)
    return data_uri(encoded.getvalue(), "jpeg")
