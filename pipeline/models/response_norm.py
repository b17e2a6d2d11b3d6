"""Local response normalization across channels (Krizhevsky et al. 2012, §3.3).

`torch.nn.LocalResponseNorm` gives the same numbers, but on a CPU it takes about two thirds of an
AlexNet training step. Here the sum over neighbouring channels is a few shifted additions, the
power −3/4 is two square roots, and the gradient is written down. On a GPU each direction is one
kernel (`pipeline.models.response_norm_kernel`).
"""

from importlib.util import find_spec
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
        if torch.onnx.is_in_onnx_export():
            return self._as_onnx(images)
        constants = self.size // 2, self.alpha / self.size, self.k
        if not torch.is_grad_enabled():  # TorchScript, too, holds only what needs no gradient
            return _normalized(images, *constants)
        return _ResponseNorm.apply(images, *constants)

    def extra_repr(self) -> str:
        return f"size={self.size}, alpha={self.alpha}, k={self.k}"

    def _as_onnx(self, images: Tensor) -> Tensor:
        """Return the node of a graph that ONNX has for this: the formula above, to the letter."""
        constants: dict[str, Any] = {"size": self.size, "alpha": self.alpha, "bias": self.k}
        return torch.onnx.ops.symbolic(
            "LRN", [images], {**constants, "beta": 0.75}, dtype=images.dtype, shape=images.shape
        )


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
    """y = a · d^(−3/4) with d = k + scale · Σ a². The backward pass computes d again."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, reach: int, scale: float, k: float) -> Tensor:
        ctx.save_for_backward(inputs)
        ctx.constants = reach, scale, k
        return _normalized(inputs, reach, scale, k)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """dL/da = g · d^(−3/4) − 2 · 3/4 · scale · a · Σ (g · a · d^(−7/4)), same window."""
        (inputs,), (reach, scale, k) = ctx.saved_tensors, ctx.constants
        if _have_kernel(inputs):
            from pipeline.models.response_norm_kernel import gradient_of

            return gradient_of(inputs, gradient, reach, scale, k), None, None, None
        a = _at_least_float32(inputs)
        root = _denominators(a, reach, scale, k).rsqrt_()
        direct = _power(root).mul_(_at_least_float32(gradient))
        shared = _window_sum(root.square_().mul_(direct).mul_(a), reach)
        direct.addcmul_(a, shared, value=-1.5 * scale)
        return direct.to(inputs.dtype), None, None, None


def _normalized(inputs: Tensor, reach: int, scale: float, k: float) -> Tensor:
    if _have_kernel(inputs):
        from pipeline.models.response_norm_kernel import normalized

        return normalized(inputs, reach, scale, k)
    a = _at_least_float32(inputs)
    return _power(_denominators(a, reach, scale, k).rsqrt_()).mul_(a).to(inputs.dtype)


def _have_kernel(inputs: Tensor) -> bool:
    """Return whether a Triton kernel can compute this; a compiler fuses the operations itself."""
    if not inputs.is_cuda or torch.compiler.is_compiling() or find_spec("triton") is None:
        return False
    from pipeline.models.response_norm_kernel import can_run

    return can_run()


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _power(root: Tensor) -> Tensor:
    """Return d^(−3/4), given d^(−1/2)."""
    return root.sqrt().mul_(root)


def _denominators(a: Tensor, reach: int, scale: float, k: float) -> Tensor:
    # Squared again for every neighbour, which costs less than to write the squares down.
    d = torch.addcmul(a.new_full((), k), a, a, value=scale)
    for offset in _offsets(a, reach):
        before, after = a[:, :-offset], a[:, offset:]
        d[:, offset:].addcmul_(before, before, value=scale)
        d[:, :-offset].addcmul_(after, after, value=scale)
    return d


def _window_sum(values: Tensor, reach: int) -> Tensor:
    """Sum each channel with its `reach` neighbours on either side."""
    total = values.clone()
    for offset in _offsets(values, reach):
        total[:, offset:] += values[:, :-offset]
        total[:, :-offset] += values[:, offset:]
    return total


def _offsets(values: Tensor, reach: int) -> range:
    return range(1, min(reach, values.shape[1] - 1) + 1)
