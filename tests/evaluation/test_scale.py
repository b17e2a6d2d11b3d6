"""Memory and results where there are many images and ImageNet-21k's 21,843 classes."""

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.numpy import load_file
from stored_predictions import METADATA, predictions_of

from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.packing import Sample, write_store
from pipeline.data.store.store import Split
from pipeline.evaluation.error_analysis import class_errors, confusions
from pipeline.evaluation.predictions import Predictions, read_predictions, write_predictions
from pipeline.reports.class_extremes import find_class_extremes
from pipeline.reports.prediction_tables import calibration_table, classes_table, confusions_table


def synthetic(num_images: int, num_classes: int) -> Predictions:
    """Predictions that are right for the classes of an even number; each image has its label."""
    labels = np.arange(num_images) % num_classes
    best = np.where(labels % 2, 0, labels)
    guesses = (best[:, None] + np.arange(5)) % num_classes
    probabilities = np.zeros((num_images, num_classes), np.float16)
    probabilities[np.arange(num_images), best] = 0.75
    return Predictions(
        keys=tuple(f"val/{number:08d}" for number in range(num_images)),
        labels=labels,
        probabilities=probabilities,
        ranks=np.where(labels % 2, num_classes - 1, 0).astype(np.int32),
        guesses=guesses.astype(np.int32),
        classes=tuple(ImageClass(i, f"n{i:08d}") for i in range(num_classes)),
        metadata=METADATA,
    )


def test_writing_and_reading_predictions_makes_no_copy_of_them(tmp_path: Path) -> None:
    predictions = synthetic(1_000, 5_000)
    path = tmp_path / "val.whole.safetensors"
    tracemalloc.start()
    write_predictions(predictions, path)
    found = read_predictions(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.5 * predictions.probabilities.nbytes
    assert found.digest == predictions.digest
    assert np.array_equal(found.probabilities, predictions.probabilities)


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    scores, labels = torch.randn(7, 11), torch.arange(7)
    predictions = predictions_of(scores, labels)
    write_predictions(predictions, tmp_path / "val.whole.safetensors")
    tensors = load_file(tmp_path / "val.whole.safetensors")
    for name in ("labels", "ranks", "guesses", "probabilities"):
        assert np.array_equal(tensors[name], getattr(predictions, name))
    assert tensors["keys"].tobytes().decode().split("\n") == list(predictions.keys)


def tiny_split(folder: Path, predictions: Predictions) -> Split:
    """A split with a repeated JPEG of 8×8 pixels for each of the images."""
    encoded = io.BytesIO()
    Image.new("RGB", (8, 8), (90, 120, 30)).save(encoded, "JPEG")
    data = encoded.getvalue()
    images = zip(predictions.keys, predictions.labels.tolist(), strict=True)
    samples = (Sample(key, data, label, 8, 8) for key, label in images)
    store = write_store(
        folder, name="many", classes=predictions.classes, splits={"val": samples}, source={}
    )
    return store.split("val")


@pytest.mark.slow
def test_everything_is_said_of_50_000_images_of_21_843_classes(tmp_path: Path) -> None:
    predictions = synthetic(50_000, 21_843)
    path = tmp_path / "val.whole.safetensors"
    tracemalloc.start()
    write_predictions(predictions, path)
    found = read_predictions(path)
    del predictions
    errors = class_errors(found)
    assert len(errors) == 21_843
    assert sum(each.top1_errors for each in errors) == int((found.labels % 2).sum())
    assert confusions(found, 3)[0].guess == 0
    console = Console(file=io.StringIO(), width=200)
    for table in (classes_table(found, 10), confusions_table(found, 10), calibration_table(found)):
        console.print(table)
    split = tiny_split(tmp_path / "data", found)
    extremes = find_class_extremes(found, split)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [each.top1_error for each in extremes.worst] == [100.0] * 4
    assert [each.top1_error for each in extremes.best] == [0.0] * 4
    assert peak < 0.3 * found.probabilities.nbytes
