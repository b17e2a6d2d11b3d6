"""Batch normalization over micro-batches, however many of them are computed at once."""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, which in training may take several micro-batches in one call.

    Without `group_statistics` it is torch's. With them, float (groups, 2, c), the images (n, c, h,
    w) of a call in training are `num_groups` micro-batches of equal size, one after another. Each
    is normalized by its own mean and variance, and these, the variance as Bessel corrects it, are
    written to the first `num_groups` rows; the running statistics are left to whoever reads them
    there (`pipeline.training.batch_norm_statistics`).

    A frozen layer, whose parameters get no gradient, stays in evaluation mode.
    """

    group_statistics: Tensor | None = None
    num_groups: int = 1

    @property
    def is_frozen(self) -> bool:
        return not self.weight.requires_grad

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode, unless it is frozen, or to evaluation mode."""
        return super().train(mode and not self.is_frozen)

    def record_statistics(self, group_statistics: Tensor) -> None:
        """Write what a call in training finds to `group_statistics`."""
        self.group_statistics = group_statistics
        # Made once, since each view is an operation.
        self._means, self._variances = (each.unbind() for each in group_statistics.unbind(1))

    def forward(self, images: Tensor) -> Tensor:
        if self.group_statistics is None or not self.training:
            return super().forward(images)
        if self.num_groups == 1:
            return self._normalized(images, 0)
        if torch.compiler.is_compiling():
            return self._normalized_by_formula(images, self.group_statistics[: self.num_groups])
        groups = images.chunk(self.num_groups)
        return torch.cat([self._normalized(group, row) for row, group in enumerate(groups)])

    def _normalized(self, images: Tensor, row: int) -> Tensor:
        statistics = self._means[row], self._variances[row]
        # Momentum 1: what was there before is forgotten.
        return F.batch_norm(images, *statistics, self.weight, self.bias, True, 1.0, self.eps)

    def _normalized_by_formula(self, images: Tensor, statistics: Tensor) -> Tensor:
        """Return the same, in operations that a compiler makes a few kernels of, for all groups."""
        groups = images.unflatten(0, (self.num_groups, -1)).to(statistics.dtype)
        over = (1, 3, 4)
        variance, mean = torch.var_mean(groups, over, correction=0, keepdim=True)
        num_values = groups[0, :, 0].numel()
        with torch.no_grad():
            statistics[:, 0].copy_(mean.squeeze(over))
            statistics[:, 1].copy_(variance.squeeze(over) * (num_values / (num_values - 1)))
        scale = torch.rsqrt(variance + self.eps) * self.weight[:, None, None]
        normalized = (groups - mean) * scale + self.bias[:, None, None]
        return normalized.flatten(0, 1).to(images.dtype)
