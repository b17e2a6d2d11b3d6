"""Stochastic gradient descent with a rate for every weight, from the curvature of the loss.

LeCun et al. 1998, Appendix C, eq. 21: a weight's rate is η / (μ + h), h being the mean second
derivative of the loss over some samples, estimated anew before each epoch.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from pipeline.config import optimization
from pipeline.data.loading.loader import Batch
from pipeline.runtime.distributed import Worker, sum_over_workers
from pipeline.training.curvature import chain_of, summed_curvature


class LevenbergMarquardt(Optimizer):
    """weight ← weight − lr / (damping + curvature) · gradient.

    The curvatures, 0 until `observe_samples` is called, are its state.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float, damping: float, model: nn.Module
    ) -> None:
        super().__init__(groups, {"lr": lr, "damping": damping})
        self._layers = chain_of(model)
        for parameter in model.parameters():
            self.state[parameter]["curvature"] = torch.zeros_like(parameter)

    def observe_samples(
        self, loss: optimization.LossConfig, batches: Iterator[Batch], worker: Worker
    ) -> None:
        """Estimate the curvatures on the images of all workers' `batches`. A collective call."""
        sums = {p: torch.zeros_like(p) for group in self.param_groups for p in group["params"]}
        num_images = 0
        for batch in batches:
            curvatures = summed_curvature(self._layers, loss, batch.images, batch.labels)
            for parameter, curvature in curvatures.items():
                sums[parameter] += curvature
            num_images += len(batch.labels)
        total = sum_over_workers(torch.tensor(float(num_images), device=worker.device), worker)
        for parameter, curvature in sums.items():
            mean = sum_over_workers(curvature, worker) / total
            self.state[parameter]["curvature"].copy_(mean)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move each weight that has a gradient along it, at its own rate."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in parameters]
            curvatures = [self.state[p]["curvature"] for p in parameters]
            damped = torch._foreach_add(curvatures, group["damping"])
            torch._foreach_addcdiv_(parameters, gradients, damped, value=-group["lr"])
