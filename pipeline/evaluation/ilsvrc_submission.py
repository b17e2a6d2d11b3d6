"""Submission files of ILSVRC, and the devkit's scoring of them.

A line an image, in alphabetical order of the images' names, holds up to five ILSVRC2012_IDs from
the best guess to the fifth; 0 is no guess.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.predictions import Predictions
from pipeline.runtime.errors import UserError


def submission(predictions: Predictions) -> str:
    """Return the content of the file; `UserError` if a class has no ILSVRC2012_ID."""
    ids = [known.ilsvrc2012_id for known in predictions.classes]
    if not ids or None in ids:
        raise UserError(
            f"{predictions.metadata.data}: its classes have no ILSVRC2012_ID, which a submission "
            "needs; `ilsvrc prepare ilsvrc2012` packs them"
        )
    order = sorted(range(len(predictions)), key=lambda row: predictions.keys[row])
    guessed = np.array(ids, np.int64)[predictions.guesses[order].astype(np.int64)]
    return "".join(" ".join(map(str, row)) + "\n" for row in guessed.tolist())


def read_lists(path: Path) -> NDArray[np.int64]:
    """Read lines of whole numbers as rows, short ones padded with 0, as MATLAB's `dlmread` does.

    Raises `UserError` that names the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read ({error})") from None
    rows = [_numbers(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
    lists = np.zeros((len(rows), max(map(len, rows), default=0)), np.int64)
    for index, row in enumerate(rows):
        lists[index, : len(row)] = row
    return lists


def flat_errors(
    guesses: NDArray[np.int64], truth: NDArray[np.int64], max_guesses: Sequence[int]
) -> list[float]:
    """Return the devkit's flat error (`eval_flat.m`), 0–1, for each number of guesses that count.

    guesses: (n, m), truth: (n, labels), both padded with 0. Further columns of guesses are dropped;
    the order of those that count makes no difference. An image's error is the share of its labels
    that are not among them. Raises `UserError` unless both have a row per image, and each image a
    label.
    """
    if len(guesses) != len(truth) or not len(truth):
        raise UserError(
            f"{len(guesses):,} lines of guesses and {len(truth):,} of labels; there must be as many"
        )
    num_labels = np.count_nonzero(truth, axis=1)
    if not num_labels.all():
        raise UserError(f"line {num_labels.argmin() + 1} of the labels has none; 0 is no class")
    errors = []
    for number in max_guesses:
        # A column of 0, so that the padding of the labels is always found.
        counted = np.pad(guesses[:, :number], ((0, 0), (0, 1)))
        missed = [(label[:, None] != counted).all(axis=1) for label in truth.T]
        errors.append(float((sum(missed) / num_labels).mean()))
    return errors


def _numbers(line: str, where: str) -> list[int]:
    words = line.replace(",", " ").split()
    if not words:
        raise UserError(f"{where}: empty; an image without guesses is a line with 0")
    try:
        return [int(np.int64(word)) for word in words]
    except (ValueError, OverflowError):
        raise UserError(f"{where}: '{line[:40]}' isn't whole numbers") from None
