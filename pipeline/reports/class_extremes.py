"""The classes that a network knows best and worst, with pictures of both."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.data.store.store import Split
from pipeline.evaluation.predictions import Predictions
from pipeline.reports.theme import data_uri

_THUMBNAIL = 96


@dataclass(frozen=True)
class Thumbnail:
    """An image of a class, as a data URI, with what the network said of it."""

    key: str
    picture: str
    words: str
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


def extremes_of(
    predictions: Predictions, split: Split, num_classes: int = 4, num_thumbnails: int = 4
) -> ClassExtremes:
    """Return the classes of highest and of lowest top-1 error, no class twice.

    A class of the worst shows the images whose wrong answers were the surest, one of the best the
    surest right ones. Of equal errors the class that comes first.
    """
    labels, wrong = predictions.labels, predictions.ranks > 0
    known = np.unique(labels[labels >= 0])
    errors = np.array([wrong[labels == label].mean() for label in known])
    num_classes = min(num_classes, len(known) // 2)
    place = {key: i for i, key in enumerate(split.keys)}

    def results(chosen: Sequence[int], right: bool) -> tuple[ClassResult, ...]:
        return tuple(
            ClassResult(
                _name(predictions, int(known[i])),
                int((labels == known[i]).sum()),
                100 * float(errors[i]),
                _thumbnails(predictions, split, place, int(known[i]), right, num_thumbnails),
            )
            for i in chosen
        )

    worst = np.argsort(-errors, kind="stable")[:num_classes].tolist()
    others = [i for i in np.argsort(errors, kind="stable").tolist() if i not in worst]
    return ClassExtremes(results(worst, right=False), results(others[:num_classes], right=True))


def _thumbnails(
    predictions: Predictions,
    split: Split,
    place: dict[str, int],
    label: int,
    right: bool,
    count: int,
) -> tuple[Thumbnail, ...]:
    guesses = predictions.guesses[:, 0]
    chosen = np.flatnonzero((predictions.labels == label) & ((guesses == label) == right))
    sureness = predictions.probabilities[chosen, guesses[chosen]].astype(np.float32)
    found: list[Thumbnail] = []
    for i in chosen[np.argsort(-sureness, kind="stable")]:
        key = predictions.keys[i]
        if key not in place or len(found) == count:
            continue
        sure = f"{float(predictions.probabilities[i, guesses[i]]):.2f}"
        words = f"{_name(predictions, int(guesses[i]))} {sure}"
        found.append(Thumbnail(key, _picture(split, place[key]), words, right))
    return tuple(found)


def _name(predictions: Predictions, label: int) -> str:
    """The first of a class's synonyms, "tench" of "tench, Tinca tinca"."""
    return predictions.classes[label].name.partition(",")[0]


def _picture(split: Split, image: int) -> str:
    with Image.open(io.BytesIO(split.encoded(image).tobytes())) as file:
        small = file.convert("RGB")
    if max(small.size) > _THUMBNAIL:
        small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=80)
    return data_uri(encoded.getvalue(), "jpeg")
