"""Predictions of given scores, as an evaluation would store them."""

import numpy as np
from torch import Tensor

from pipeline.data.store.manifest import ImageClass
from pipeline.evaluation.predictions import PredictionMetadata, Predictions
from pipeline.evaluation.topk import label_ranks, topk_classes

METADATA = PredictionMetadata(
    network="resnet18",
    training_data="ilsvrc2012",
    data="ilsvrc2012",
    data_digest="d" * 64,
    split="val",
    protocol="whole",
    weights_digest="w" * 64,
    run="resnet18-1a2b3c4d",
)


def predictions_of(scores: Tensor, labels: Tensor) -> Predictions:
    """Return the predictions of logits (n, c); class c has the ILSVRC2012_ID 1000 − c."""
    num_images, num_classes = scores.shape
    return Predictions(
        keys=tuple(f"val/ä{number:05d}" for number in range(num_images)),
        labels=labels.numpy(),
        probabilities=scores.softmax(1).half().numpy(),
        ranks=label_ranks(scores, labels).numpy().astype(np.int32),
        guesses=topk_classes(scores, 5).numpy().astype(np.int32),
        classes=tuple(ImageClass(i, f"n{i:08d}", "a, b", 1000 - i) for i in range(num_classes)),
        metadata=METADATA,
    )
