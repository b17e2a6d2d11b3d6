"""Scoring by other labels than a data set's own: ReaL's several right ones, Kaggle's, Caffe's.

Beyer et al., "Are we done with ImageNet?" (2020), §4: a guess is right if it is among an image's
labels; an image without any is left out.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.data.sources.label_files import image_name
from pipeline.data.store.manifest import ImageClass
from pipeline.evaluation.predictions import NUM_GUESSES, Predictions
from pipeline.runtime.errors import UserError

Labels = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class RelabelledErrors:
    """The errors of `images` images for each k of `ks`; `left_out` others have no label."""

    ks: tuple[int, ...]
    errors: tuple[int, ...]
    images: int
    left_out: int


def relabelled_errors(
    predictions: Predictions, labels: Labels, ks: Sequence[int]
) -> RelabelledErrors:
    """Count the images of which none of the k best guesses is among `labels`, by `image_name`.

    Raises `UserError` for a k above the number of guesses kept, an image that the labels don't
    name, and a label that is no class.
    """
    if max(ks) > NUM_GUESSES:
        raise UserError(f"--topk {max(ks)}: with --labels, {NUM_GUESSES} guesses are known at most")
    names = [image_name(key) for key in predictions.keys]
    if absent := [name for name in names if name not in labels]:
        raise UserError(
            f"the labels don't name '{absent[0]}' (nor {len(absent) - 1:,} more images of "
            f"{predictions.metadata.qualified_split}); do they belong together?"
        )
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"several images are called '{repeated[0]}'; the labels can't be theirs")
    columns = class_columns(predictions.classes, labels)
    right = [{columns[label] for label in labels[name]} for name in names]
    guesses = predictions.guesses.tolist()
    errors = tuple(
        sum(
            bool(of_image) and of_image.isdisjoint(guessed[:k])
            for guessed, of_image in zip(guesses, right, strict=True)
        )
        for k in ks
    )
    images = sum(map(bool, right))
    if not images:
        raise UserError("the labels are empty for every image; there is nothing to score")
    return RelabelledErrors(tuple(ks), errors, images, len(right) - images)


def class_columns(classes: Sequence[ImageClass], labels: Labels) -> dict[str, int]:
    """Return the class that each label of `labels` means: a name, or a number of ImageNet's lists.

    ReaL's, Caffe's and Keras' numbers are the ranks of the WNIDs, from 0.
    """
    found = {label for of_image in labels.values() for label in of_image}
    columns = {each.name: each.index for each in classes}
    if not found <= columns.keys() and all(label.isdecimal() for label in found):
        ranked = [columns[name] for name in sorted(columns)]
        columns = {str(rank): column for rank, column in enumerate(ranked)}
    if unknown := found - columns.keys():
        raise UserError(f"label '{min(unknown)}' is none of the {len(classes):,} classes")
    return columns


@dataclass(frozen=True)
class GroundTruth:
    """ILSVRC2012_IDs, int64 (n, labels), padded with 0, of the images `rows` by order of name."""

    ids: NDArray[np.int64]
    rows: tuple[int, ...]


def ground_truth(labels: Labels, classes: Sequence[ImageClass]) -> GroundTruth:
    """Return the labels as ILSVRC's submissions have them, but for images without any.

    Raises `UserError` for classes without IDs, and a label that is no class.
    """
    ids = [each.ilsvrc2012_id or 0 for each in classes]
    if not all(ids):
        raise UserError("the data set's classes have no ILSVRC2012_ID, which the guesses are")
    columns = class_columns(classes, labels)
    rows = [[ids[columns[label]] for label in labels[name]] for name in sorted(labels)]
    counted = [row for row, of_image in enumerate(rows) if of_image]
    truth = np.zeros((len(counted), max(map(len, rows), default=0)), np.int64)
    for number, row in enumerate(counted):
        truth[number, : len(rows[row])] = rows[row]
    return GroundTruth(truth, tuple(counted))
