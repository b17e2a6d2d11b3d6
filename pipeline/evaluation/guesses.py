"""What a network takes images for: the classes of highest probability, by name."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipeline.data.store.manifest import ImageClass
from pipeline.evaluation.evaluate import scored_images
from pipeline.evaluation.evaluation_config import EvaluationConfig
from pipeline.evaluation.topk import topk_classes
from pipeline.models.classifier import modes_restored
from pipeline.runtime.distributed import Worker

_WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Guess:
    """A class and its probability; `output` is the network's, from 0."""

    output: int
    wnid: str | None
    name: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """What a network says of an image: its guesses, the likeliest first.

    `weights_digest` is the SHA-256 of the file of weights.
    """

    network: str
    protocol: str
    weights_digest: str
    guesses: tuple[Guess, ...]

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "protocol": self.protocol,
            "network": self.network,
            "weights_digest": self.weights_digest,
            "top": [vars(guess) for guess in self.guesses],
        }


def guess(
    model: nn.Module,
    config: EvaluationConfig,
    classes: Sequence[ImageClass],
    count: int,
    device: torch.device,
) -> tuple[tuple[Guess, ...], ...]:
    """Return the `count` likeliest of `classes`, the network's outputs, for each image of a split.

    The probabilities are those that `evaluate` keeps of the same images.
    """
    found: dict[int, tuple[Guess, ...]] = {}
    worker = Worker(0, 1, device)
    with modes_restored(model):
        for scored in scored_images(model.eval(), config, worker, lambda batches: batches):
            top = topk_classes(scored.scores, count)
            probabilities = scored.probabilities.gather(1, top).tolist()
            for image, outputs, values in zip(
                scored.indices.tolist(), top.tolist(), probabilities, strict=True
            ):
                found[image] = tuple(
                    _guess(classes[output], value)
                    for output, value in zip(outputs, values, strict=True)
                )
    return tuple(found[image] for image in range(len(config.split)))


def unnamed_classes(count: int) -> tuple[ImageClass, ...]:
    """Return so many classes whose names aren't known."""
    return tuple(ImageClass(number, str(number)) for number in range(count))


def _guess(known: ImageClass, probability: float) -> Guess:
    wnid = known.name if _WNID.fullmatch(known.name) else None
    return Guess(known.index, wnid, (wnid and known.words) or known.name, probability)
