"""The batches, logits and gradients of a step, recorded from outside the training loop."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from pipeline.data.loading.loader import Batch
from pipeline.models.classifier import WithAuxiliary
from pipeline.training.grouped_forward import GroupedForward
from pipeline.training.loss import main_logits


@dataclass(frozen=True)
class InspectedImage:
    """An image of the step: its key, the name of its class, its cross-entropy without mixing."""

    key: str
    class_name: str
    loss: float


@dataclass(frozen=True)
class InspectedStep:
    """Step `step` of the training (from 1, as it is tracked); the worst images come first.

    `loss` is the mean over the images, `gradient_norm` the Euclidean one before any clipping.
    """

    step: int
    learning_rate: float
    loss: float
    gradient_norm: float
    images: tuple[InspectedImage, ...]


class StepInspector(Iterator[Batch]):
    """Passes on `batches`; records them, their logits and gradients since the last reset.

    `model` is the network as the loop runs it.
    """

    def __init__(
        self, model: GroupedForward, optimizer: Optimizer, batches: Iterator[Batch]
    ) -> None:
        self.gradient_norm = 0.0
        self._batches = batches
        self.reset()
        model.register_forward_hook(self._record_logits)
        optimizer.register_step_pre_hook(self._record_gradients)

    def reset(self) -> None:
        """Drop what is recorded; the next step begins."""
        self._computed: list[Batch] = []
        self._logits: list[Tensor] = []

    def __next__(self) -> Batch:
        self._latest = next(self._batches)
        return self._latest

    def images(self, keys: Sequence[str], class_names: Sequence[str]) -> tuple[InspectedImage, ...]:
        """Return the images of the step: those whose loss is NaN, then from the highest loss."""
        labels = torch.cat([batch.labels for batch in self._computed])
        images = [
            InspectedImage(keys[index], class_names[label], loss)
            for index, label, loss in zip(
                torch.cat([batch.indices for batch in self._computed]).tolist(),
                labels.tolist(),
                F.cross_entropy(torch.cat(self._logits), labels, reduction="none").tolist(),
                strict=True,
            )
        ]
        return tuple(sorted(images, key=lambda image: (image.loss <= float("inf"), -image.loss)))

    def _record_logits(
        self, model: nn.Module, inputs: object, output: Tensor | WithAuxiliary
    ) -> None:
        # A batch may be computed in parts, and one that the optimizer samples not at all.
        if not self._computed or self._computed[-1] is not self._latest:
            self._computed.append(self._latest)
        self._logits.append(main_logits(output).detach().clone())

    def _record_gradients(self, optimizer: Optimizer, *_: object) -> None:
        gradients = [
            parameter.grad
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        self.gradient_norm = float(get_total_norm(gradients))
