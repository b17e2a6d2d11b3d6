"""Scoring by other labels: several right ones, none, names, and numbers of ImageNet's lists."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from stored_predictions import predictions_of

from pipeline.cli.app import main
from pipeline.data.sources.digits import digits_samples
from pipeline.data.sources.label_files import read_label_file
from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.packing import write_store
from pipeline.evaluation.predictions import Predictions, write_predictions
from pipeline.evaluation.relabelled import class_columns, ground_truth, relabelled_errors
from pipeline.runtime.errors import UserError

NAMES = [f"ILSVRC2012_val_{number:08d}" for number in range(1, 5)]


@pytest.fixture
def predictions() -> Predictions:
    """Of four images and seven classes; image i guesses i, i + 1 … in this order."""
    scores = torch.stack([-torch.arange(7.0).roll(image) for image in range(4)])
    made = predictions_of(scores, torch.zeros(4, dtype=torch.int64))
    values = {**vars(made), "keys": tuple(f"n1/{name}" for name in NAMES)}
    values = {name: values[name] for name in Predictions.__dataclass_fields__}
    return Predictions(**values)


def test_a_guess_among_several_right_labels_is_right(
    predictions: Predictions, tmp_path: Path
) -> None:
    assert predictions.guesses[:, 0].tolist() == [0, 1, 2, 3]
    real = tmp_path / "real.json"
    real.write_text(json.dumps([[0], [3, 5], [], [2]]))
    found = relabelled_errors(predictions, read_label_file(real), (1, 3, 5))
    assert (found.images, found.left_out) == (3, 1)
    # The second image's 3 is its third guess; the fourth image's 2 is its last.
    assert found.errors == (2, 1, 1)


def test_labels_are_names_or_ranks_of_names() -> None:
    classes = [ImageClass(0, "n2"), ImageClass(1, "n1"), ImageClass(2, "n3")]
    assert class_columns(classes, {"a": ("n1", "n3")})["n1"] == 1
    assert class_columns(classes, {"a": ("0", "2")}) == {"0": 1, "1": 0, "2": 2}
    with pytest.raises(UserError, match="label 'n9' is none of the 3 classes"):
        class_columns(classes, {"a": ("n9",)})


def test_what_does_not_fit_is_refused(predictions: Predictions) -> None:
    labels = dict.fromkeys(NAMES[:3], ("1",))
    with pytest.raises(UserError, match=r"don't name 'ILSVRC2012_val_00000004'"):
        relabelled_errors(predictions, labels, (1,))
    with pytest.raises(UserError, match=r"empty for every image"):
        relabelled_errors(predictions, dict.fromkeys(NAMES, ()), (1,))
    with pytest.raises(UserError, match="--topk 6: with --labels"):
        relabelled_errors(predictions, labels, (6,))


def test_ground_truth_is_in_the_order_of_names_and_ids(predictions: Predictions) -> None:
    labels = {"b": ("0", "2"), "a": (), "c": ("1",)}
    truth = ground_truth(labels, predictions.classes)
    assert truth.rows == (1, 2)
    np.testing.assert_array_equal(truth.ids, [[1000, 998], [999, 0]])
    with pytest.raises(UserError, match="have no ILSVRC2012_ID"):
        ground_truth(labels, [ImageClass(k, str(k)) for k in range(3)])


def test_the_command_scores_by_a_file(
    predictions: Predictions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_predictions(predictions, tmp_path / "kept.safetensors")
    solution = tmp_path / "LOC_val_solution.csv"
    rows = [f"{name},n{k:08d} 1 2 3 4" for k, name in enumerate(NAMES)]
    solution.write_text("\n".join(["ImageId,PredictionString", *rows[::-1]]))
    command = ["predictions", str(tmp_path / "kept.safetensors"), "--labels", str(solution)]
    monkeypatch.setattr(sys, "argv", ["ilsvrc", *command])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert "0.00" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("truth", "data", "expected"),
    [
        ("1\n2\n3\n", False, "0.000000"),
        ("\ufeff1\r\n2\r\n3\r\n", False, "0.000000"),
        ("c_00000001.JPEG 1\nc_00000002.JPEG 0\nc_00000003.JPEG 0\n", True, "0.333333"),
        ("ImageId,PredictionString\nc2,n1 1 2 3 4\nc1,n2 1\nc3,n2 1 2\n", True, "0.333333"),
        ("[[1], [0, 2], []]", True, "0.250000"),
        ("[[1], [0, 2], []]", False, "say with --data"),
    ],
)
def test_the_command_scores_guesses_by_any_file(
    truth: str,
    data: bool,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Guesses are 1, 2, 3; n2 has the ID 1, n1 the ID 2."""
    classes = [ImageClass(0, "n1", "", 2), ImageClass(1, "n2", "", 1), ImageClass(2, "n3", "", 3)]
    digit = next(digits_samples(lambda done, total: None)["train"])
    write_store(tmp_path / "d", name="d", classes=classes, splits={"val": [digit]}, source={})
    (tmp_path / "guesses.txt").write_text("1\n2\n3\n")
    (tmp_path / "truth").write_bytes(truth.encode())
    command = ["score", str(tmp_path / "guesses.txt"), "--ground-truth", str(tmp_path / "truth")]
    command += ["--data", str(tmp_path / "d")] if data else []
    monkeypatch.setattr(sys, "argv", ["ilsvrc", *command])
    with pytest.raises(SystemExit):
        main()
    output = "".join(capsys.readouterr())
    assert expected in output.split("2 guesses")[0]
