"""Loss and hits as sums over images, on the device until they are reported."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.evaluation.topk import topk_hits
from pipeline.runtime.distributed import Worker, sum_over_workers


@dataclass(frozen=True)
class MetricSums:
    """Sums over some images; all of them tensors of one shape, dtype and device.

    They stay tensors, because reading a number would make the GPU wait.
    """

    loss: Tensor
    top1_hits: Tensor
    top5_hits: Tensor
    images: Tensor

    @staticmethod
    def zeros(dtype: torch.dtype, device: torch.device) -> "MetricSums":
        """Return the sums over no images, tensors ()."""
        return MetricSums(*torch.zeros(4, dtype=dtype, device=device))

    @staticmethod
    def of(loss: Tensor, scores: Tensor, labels: Tensor, device: torch.device) -> "MetricSums":
        """Count the hits of `scores`, (n, c), beside their summed `loss`, a tensor ().

        The sums are on `device` and of the dtype of `loss`.
        """
        images = torch.full_like(loss, len(labels))
        hits = topk_hits(scores, labels).to(loss.dtype)
        return MetricSums(*torch.stack([loss, *hits, images]).to(device))

    @staticmethod
    def stack(parts: Iterable["MetricSums"]) -> "MetricSums":
        """Return the sums () of n parts as one of tensors (n,)."""
        return MetricSums(*torch.stack([part._stacked() for part in parts]).unbind(-1))

    def __add__(self, other: "MetricSums") -> "MetricSums":
        return MetricSums(*(self._stacked() + other._stacked()))

    def over_workers(self, worker: Worker) -> "MetricSums":
        """Return the sums over all workers. A collective call."""
        return MetricSums(*sum_over_workers(self._stacked(), worker).unbind(-1))

    def _stacked(self) -> Tensor:
        return torch.stack([self.loss, self.top1_hits, self.top5_hits, self.images], dim=-1)
