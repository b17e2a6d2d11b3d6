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
from pipeline.reports.class_extremes import extremes_of


@pytest.fixture
def split(data_dir: Path) -> Split:
    return Store.open(data_dir / "digits").split("val")


@pytest.fixture
def predictions(split: Split, data_dir: Path) -> Predictions:
    """Sure of every digit, but for all 3s, taken for 8s, and a fifth of the 5s, for 6s."""
    labels = torch.from_numpy(split.labels)
    answers = labels.clone()
    answers[labels == 3] = 8
    answers[torch.nonzero(labels == 5)[::5]] = 6
    scores = torch.zeros(len(labels), 10)
    sureness = 1 + torch.arange(len(labels)) % 50 / 10
    scores[torch.arange(len(labels)), answers] = sureness
    about = PredictionMetadata(
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
        metadata=about,
    )


def test_the_worst_and_best_classes_come_with_their_surest_pictures(
    predictions: Predictions, split: Split
) -> None:
    found = extremes_of(predictions, split, num_classes=2, num_thumbnails=3)
    assert [(result.name, round(result.top1_error)) for result in found.worst] == [
        ("3", 100), ("5", 21),
    ]  # fmt: skip
    assert [(result.name, result.top1_error) for result in found.best] == [("0", 0.0), ("1", 0.0)]
    wrong = found.worst[0].thumbnails
    assert len(wrong) == 3
    assert all(image.words.startswith("8 0.9") and not image.is_right for image in wrong)
    sureness = [float(image.words.split()[1]) for image in wrong]
    assert sureness == sorted(sureness, reverse=True)
    right = found.best[0].thumbnails[0]
    assert right.is_right
    picture = Image.open(io.BytesIO(b64decode(right.picture.partition(",")[2])))
    assert picture.format == "JPEG"
    assert max(picture.size) <= 96


def test_classes_are_never_shown_twice_where_there_are_few(
    predictions: Predictions, split: Split
) -> None:
    found = extremes_of(predictions, split, num_classes=20, num_thumbnails=1)
    names = [result.name for result in (*found.worst, *found.best)]
    assert sorted(names) == [str(digit) for digit in range(10)]
