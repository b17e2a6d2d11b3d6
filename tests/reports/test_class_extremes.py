import io
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data.store.store import Split, Store
from pipeline.evaluation.predictions import PredictionMetadata, Predictions
from pipeline.evaluation.topk import label_ranks, topk_classes
from pipeline.reports.class_extremes import find_class_extremes


@pytest.fixture
def split(data_dir: Path) -> Split:
    return Store.open(data_dir / "digits").split("val")


@pytest.fixture
def predictions(split: Split, data_dir: Path) -> Predictions:
    """All right but the 3s, predicted as 8s, and a fifth of the 5s, predicted as 6s."""
    labels = torch.from_numpy(split.labels)
    answers = labels.clone()
    answers[labels == 3] = 8
    answers[torch.nonzero(labels == 5)[::5]] = 6
    scores = torch.zeros(len(labels), 10)
    confidences = 1 + torch.arange(len(labels)) % 50 / 10
    scores[torch.arange(len(labels)), answers] = confidences
    metadata = PredictionMetadata(
        network="n", training_data="digits", data="digits", data_digest="d", split="val",
        protocol="whole", weights_digest="w", run="mine",
    )  # fmt: skip
    return Predictions(
        keys=split.keys,
        labels=split.labels,
        probabilities=scores.softmax(1).half().numpy(),
        ranks=label_ranks(scores, labels).numpy().astype(np.int32),
        guesses=topk_classes(scores, 5).numpy().astype(np.int32),
        classes=tuple(Store.open(data_dir / "digits").classes),
        metadata=metadata,
    )


def test_the_worst_and_best_classes_have_their_most_confident_images(
    predictions: Predictions, split: Split
) -> None:
    found = find_class_extremes(predictions, split, num_classes=2, num_thumbnails=3)
    assert [(result.name, round(result.top1_error)) for result in found.worst] == [
        ("3", 100), ("5", 21),
    ]  # fmt: skip
    assert [(result.name, result.top1_error) for result in found.best] == [("0", 0.0), ("1", 0.0)]
    wrong = found.worst[0].thumbnails
    assert len(wrong) == 3
    assert all(image.caption.startswith("8 0.9") and not image.is_right for image in wrong)
    confidences = [float(image.caption.split()[1]) for image in wrong]
    assert confidences == sorted(confidences, reverse=True)
    right = found.best[0].thumbnails[0]
    assert right.is_right
    picture = Image.open(io.BytesIO(b64decode(right.uri.partition(",")[2])))
    assert picture.format == "JPEG"
    assert max(picture.size) <= 96


def test_few_classes_are_not_shown_twice(predictions: Predictions, split: Split) -> None:
    found = find_class_extremes(predictions, split, num_classes=20, num_thumbnails=1)
    names = [result.name for result in (*found.worst, *found.best)]
    assert sorted(names) == [str(digit) for digit in range(10)]
