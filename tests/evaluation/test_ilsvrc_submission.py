"""Submission files, and the devkit's scoring of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_predictions import predictions_of

from pipeline.data.store.manifest import ImageClass
from pipeline.evaluation.ilsvrc_submission import flat_errors, read_lists, submission
from pipeline.runtime.errors import UserError


def eval_flat(guesses: list[list[int]], truth: list[list[int]], max_guesses: int) -> float:
    """The devkit's `eval_flat.m`, step by step: rows as dlmread gives them, one zero column."""
    width = max((len(row) for row in guesses), default=0)
    pred = [row + [0] * (width - len(row)) for row in guesses]
    pred = [[*row[:max_guesses], 0] for row in pred]
    gt_width = max(len(row) for row in truth)
    gt = [row + [0] * (gt_width - len(row)) for row in truth]
    errors = []
    for row, labels in zip(pred, gt, strict=True):
        c = 0
        for label in labels:
            c += min(int(label != guess) for guess in row)
        errors.append(c / sum(label != 0 for label in labels))
    return sum(errors) / len(errors)


def written(path: Path, rows: list[list[int]]) -> Path:
    path.write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
    return path


ids = st.integers(1, 6)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_errors_are_those_of_the_devkit(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Short lines, further columns, repeated guesses, images of several labels."""
    folder = tmp_path_factory.getbasetemp()
    num_images = data.draw(st.integers(1, 8))
    rows = st.lists(st.lists(ids, min_size=1, max_size=8), min_size=num_images, max_size=num_images)
    guesses, truth = data.draw(rows), data.draw(rows)
    read = read_lists(written(folder / "pred.txt", guesses))
    labels = read_lists(written(folder / "truth.txt", truth))
    found = flat_errors(read, labels, range(1, 6))
    assert found == pytest.approx([eval_flat(guesses, truth, number) for number in range(1, 6)])


def test_a_line_without_a_guess_is_an_error_of_one_image(tmp_path: Path) -> None:
    guesses = read_lists(written(tmp_path / "pred.txt", [[0], [490], [1, 2, 3, 4, 5, 490]]))
    truth = read_lists(written(tmp_path / "truth.txt", [[490], [490], [490]]))
    assert flat_errors(guesses, truth, [1, 5, 6]) == pytest.approx([2 / 3, 2 / 3, 1 / 3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n\n2\n", "line 2: empty"),
        ("1 x\n", "line 1: '1 x'"),
        ("1.5\n", "line 1"),
        ("1\n99999999999999999999\n", "line 2"),
    ],
)
def test_an_invalid_file_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "pred.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_lists(path)
    with pytest.raises(UserError, match="can't be read"):
        read_lists(tmp_path / "none.txt")


def test_an_image_without_a_label_is_named() -> None:
    with pytest.raises(UserError, match="line 2 of the labels has none"):
        flat_errors(np.ones((3, 1), np.int64), np.array([[4], [0], [0]]), [1])


def test_another_number_of_lines_is_refused() -> None:
    with pytest.raises(UserError, match="3 lines of guesses and 2 of labels"):
        flat_errors(np.ones((3, 1), np.int64), np.ones((2, 1), np.int64), [1])


def test_a_submission_has_the_errors_that_were_counted(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(9, (50,), generator=generator)
    some = predictions_of(2 * torch.randn(50, 9, generator=generator), labels)
    backwards = replace(
        some,
        keys=some.keys[::-1], labels=some.labels[::-1].copy(), ranks=some.ranks[::-1].copy(),
        guesses=some.guesses[::-1].copy(),
    )  # fmt: skip
    assert submission(some) == submission(backwards)  # the order is that of the names
    path = tmp_path / "submission.txt"
    path.write_text(submission(some))
    guesses = read_lists(path)
    assert guesses.shape == (50, 5)
    truth = (1000 - labels.numpy())[:, None]  # class c has this ILSVRC2012_ID
    top1, top5 = flat_errors(guesses, truth, [1, 5])
    assert top1 == pytest.approx(some.counts.top1_error / 100)
    assert top5 == pytest.approx(some.counts.top5_error / 100)


def test_classes_without_ids_are_refused() -> None:
    some = predictions_of(torch.eye(3), torch.arange(3))
    with pytest.raises(UserError, match="ILSVRC2012_ID"):
        submission(replace(some, classes=tuple(ImageClass(i, "digit") for i in range(3))))
