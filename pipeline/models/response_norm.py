"""Local response normalization across channels (Krizhevsky et al. 2012, §3.3).

`torch.nn.LocalResponseNorm` gives the same numbers, but on a CPU it takes about two thirds of an
AlexNet training step. Here the sum over neighbouring channels is a few shifted additions, the
power −3/4 is two square roots, and the gradient is written down.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class ResponseNorm(nn.Module):
    """Divide each value by `(k + alpha / size · Σ a²) ** 0.75`, summed over `size` channels.

    The channels are centred on the value's own; past the first and the last they count as 0.
    Dividing `alpha` by `size` is the convention of cuda-convnet, Caffe and PyTorch; the formula
    printed in the paper doesn't. The exponent 3/4 is that of every network published with it.
    Float (n, c, h, w) in and out; bfloat16 and float16 are computed in float32.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, k: float = 2.0) -> None:
        super().__init__()
        if size % 2 == 0:
            raise ValueError(f"size must be odd, got {size}")
        self.size = size
        self.alpha = alpha
        self.k = k

    def forward(self, images: Tensor) -> Tensor:
        return _ResponseNorm.apply(images, self.size // 2, self.alpha / self.size, self.k)

    def extra_repr(self) -> str:
        return f"size={self.size}, alpha={self.alpha}, k={self.k}"


class SameMapNorm(nn.AvgPool2d):
    """Divide each value by `(k + alpha / size² · Σ a²) ** 0.75`, over a square of its own map.

    The square has `size` pixels a side and is centred on the value; outside the map it counts 0.
    A pooling of squares, which counts the padding too and so is the sum over size². In the original
    code of AlexNet, and not in the paper.
    """

    def __init__(self, size: int, alpha: float, k: float) -> None:
        super().__init__(size, stride=1, padding=size // 2)
        self.alpha = alpha
        self.k = k

    def forward(self, images: Tensor) -> Tensor:
        a = _at_least_float32(images)
        d = self.k + self.alpha * super().forward(a * a)
        return (a * d**-0.75).to(images.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, alpha={self.alpha}, k={self.k}"


class _ResponseNorm(torch.autograd.Function):
    """y = a · d^(−3/4) with d = k + scale · Σ a²."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, reach: int, scale: float, k: float) -> Tensor:
        a = _at_least_float32(inputs)
        d = _window_sum(a * a, reach).mul_(scale).add_(k)
        ctx.save_for_backward(inputs, d)
        ctx.reach, ctx.scale = reach, scale
        return (a * _power_minus_three_quarters(d)).to(inputs.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """dL/da = g · d^(−3/4) − 2 · 3/4 · scale · a · Σ (g · a · d^(−7/4)), same window."""
        inputs, d = ctx.saved_tensors
        a = _at_least_float32(inputs)
        direct = _at_least_float32(gradient) * _power_minus_three_quarters(d)
        shared = _window_sum((direct * a).div_(d), ctx.reach)
        direct.addcmul_(a, shared, value=-1.5 * ctx.scale)
        return direct.to(inputs.dtype), None, None, None


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _power_minus_three_quarters(d: Tensor) -> Tensor:
    root = d.rsqrt()
    return root.sqrt().mul_(root)


def _window_sum(values: Tensor, reach: int) -> Tensor:
    """Sum each channel with its `reach` neighbours on either side."""
    total = values.clone()
    for offset in range(1, min(reach, values.shape[1] - 1) + 1):
        total[:, offset:] += values[:, :-offset]
        total[:, :-offset] += values[:, offset:]
    return total
