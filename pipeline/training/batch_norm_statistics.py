"""Running statistics of batch normalization that do not depend on workers or passes."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.models.batch_norm import BatchNorm2d
from pipeline.runtime.distributed import Worker, sum_over_workers


class BatchNormStatistics:
    """Updates the running statistics of a network's batch-norm layers once a step.

    Those of frozen layers stay as they are.

    A layer's momentum m is meant for a whole step: after it they are `(1 - m) · before + m · mean
    over the micro-batches`, of all workers. Plain use would apply it once for each micro-batch that
    a worker computes.

    The statistics of up to `max_groups` micro-batches that are computed at once stand side by side,
    and so do those of all layers, so that they are summed, sent and added by a few operations.
    """

    def __init__(self, model: nn.Module, max_groups: int) -> None:
        self._layers = _layers(model)
        self._num_groups = 0
        if not self._layers:
            return
        self._running: list[Tensor] = []
        self._counters: list[Tensor] = []
        for layer in self._layers:
            assert layer.running_mean is not None
            assert layer.running_var is not None
            assert layer.num_batches_tracked is not None
            self._running += layer.running_mean, layer.running_var
            self._counters.append(layer.num_batches_tracked)
        (self._momentum,) = {layer.momentum for layer in self._layers if layer.momentum is not None}
        widths = [2 * layer.num_features for layer in self._layers]
        self._latest = self._running[0].new_zeros(max_groups, sum(widths))
        self._sums = self._latest.new_zeros(sum(widths) + 1)  # the last one counts groups
        for layer, part in zip(self._layers, self._latest.split(widths, dim=1), strict=True):
            layer.record_statistics(part.unflatten(1, (2, -1)))

    def expect(self, num_groups: int) -> None:
        """Prepare the layers for a pass of `num_groups` micro-batches, all of one size."""
        if num_groups != self._num_groups:
            for layer in self._layers:
                layer.num_groups = num_groups
        self._num_groups = num_groups

    @torch.no_grad()
    def add_pass(self) -> None:
        """Add the statistics of the pass that was computed."""
        if self._layers:
            self._sums[:-1] += self._latest[: self._num_groups].sum(dim=0)
            self._sums[-1] += self._num_groups

    @torch.no_grad()
    def update(self, worker: Worker) -> None:
        """Update the running statistics at the end of a step. A collective call."""
        if not self._layers:
            return
        sums = sum_over_workers(self._sums, worker)
        self._sums.zero_()
        means = (sums[:-1] / sums[-1]).split([len(values) for values in self._running])
        torch._foreach_lerp_(self._running, list(means), self._momentum)
        torch._foreach_add_(self._counters, 1)


def _layers(model: nn.Module) -> list[BatchNorm2d]:
    layers = []
    for name, layer in model.named_modules():
        if isinstance(layer, BatchNorm2d):
            layers += [] if layer.is_frozen else [layer]
        elif isinstance(layer, _BatchNorm):
            raise TypeError(
                f"{name}: {type(layer).__name__} of torch would take the micro-batches of a pass "
                "as one; use pipeline.models.batch_norm.BatchNorm2d"
            )
    return layers
