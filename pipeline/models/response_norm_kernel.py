"""Response normalization on a GPU: one Triton kernel a direction, which reads what it normalizes.

Each value reads its neighbours from the cache, and only inputs, gradients and results go through
the GPU's memory. Operation by operation, that would be some thirty passes over it.
"""

import functools
import math
import os
import shutil

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 512


@functools.cache
def can_run() -> bool:
    """Return whether there is the C compiler with which Triton builds a kernel's launcher."""
    return any(map(shutil.which, (os.environ.get("CC", "gcc"), "gcc", "clang")))


def normalized(inputs: Tensor, reach: int, scale: float, k: float) -> Tensor:
    """Return a · (k + scale · Σ a²)^(−3/4) of `inputs` (n, c, h, w), in their type and layout."""
    a = _dense(inputs)
    results = torch.empty_like(a)
    _launch(normalize_kernel, a, (a, results), reach, scale, k)
    return results


def gradient_of(inputs: Tensor, gradient: Tensor, reach: int, scale: float, k: float) -> Tensor:
    """Return the gradient by `inputs`, given that by `normalized`; all (n, c, h, w)."""
    a = _dense(inputs)
    g = gradient
    if g.stride() != a.stride():
        g = torch.empty_like(a, dtype=gradient.dtype).copy_(gradient)
    results = torch.empty_like(a)
    _launch(gradient_kernel, a, (a, g, results), reach, scale, k)
    return results


def _dense(images: Tensor) -> Tensor:
    last = images.is_contiguous(memory_format=torch.channels_last)
    return images if last else images.contiguous()


def _launch(
    kernel: "triton.JITFunction[..., None]",
    a: Tensor,
    tensors: tuple[Tensor, ...],
    reach: int,
    scale: float,
    k: float,
) -> None:
    channels, pixels = a.shape[1], math.prod(a.shape[2:])
    # In memory, the next channel of a pixel is so many values on.
    stride = pixels if a.is_contiguous() else 1
    blocks = triton.cdiv(channels * pixels, _BLOCK)
    with torch.cuda.device_of(a):
        kernel[(len(a) * blocks,)](
            *tensors,
            channels,
            stride,
            channels * pixels,
            blocks,
            scale=scale,
            k=k,
            reach=reach,
            wide=tl.float64 if a.dtype == torch.float64 else tl.float32,
            block=_BLOCK,
        )


# Scale and k are compiled in: as arguments, Triton would round them to float32. `wide` is the type
# that is computed in.
@triton.jit
def normalize_kernel(  # type: ignore[no-untyped-def]
    inputs,
    results,
    channels,
    stride,
    size,
    blocks,
    scale: tl.constexpr,
    k: tl.constexpr,
    reach: tl.constexpr,
    wide: tl.constexpr,
    block: tl.constexpr,
):
    program = tl.program_id(0)
    start = (program // blocks).to(tl.int64) * size  # of the image
    place = program % blocks * block + tl.arange(0, block)
    channel = place // stride % channels
    a = tl.full((block,), 0, wide)
    d = tl.full((block,), k, wide)
    for offset in tl.static_range(-reach, reach + 1):
        there = (place < size) & (channel + offset >= 0) & (channel + offset < channels)
        here = start + place + offset * stride
        neighbour = tl.load(inputs + here, mask=there, other=0).to(wide)
        d += scale * neighbour * neighbour
        if offset == 0:
            a = neighbour
    root = tl.rsqrt(d)
    y = a * tl.sqrt(root) * root
    tl.store(results + start + place, y.to(results.dtype.element_ty), mask=place < size)


@triton.jit
def gradient_kernel(  # type: ignore[no-untyped-def]
    inputs,
    gradients,
    results,
    channels,
    stride,
    size,
    blocks,
    scale: tl.constexpr,
    k: tl.constexpr,
    reach: tl.constexpr,
    wide: tl.constexpr,
    block: tl.constexpr,
):
    program = tl.program_id(0)
    start = (program // blocks).to(tl.int64) * size
    place = program % blocks * block + tl.arange(0, block)
    channel = place // stride % channels
    a = tl.full((block,), 0, wide)
    direct = tl.full((block,), 0, wide)
    shared = tl.full((block,), 0, wide)
    for offset in tl.static_range(-reach, reach + 1):
        # This neighbour's denominator needs its own neighbours. The compiler loads each value once.
        d = tl.full((block,), k, wide)
        for further in tl.static_range(offset - reach, offset + reach + 1):
            there = (place < size) & (channel + further >= 0) & (channel + further < channels)
            here = start + place + further * stride
            value = tl.load(inputs + here, mask=there, other=0).to(wide)
            d += scale * value * value
        root = tl.rsqrt(d)
        there = (place < size) & (channel + offset >= 0) & (channel + offset < channels)
        here = start + place + offset * stride
        neighbour = tl.load(inputs + here, mask=there, other=0).to(wide)
        passed = tl.load(gradients + here, mask=there, other=0).to(wide) * tl.sqrt(root) * root
        shared += passed * neighbour * root * root
        if offset == 0:
            a, direct = neighbour, passed
    y = direct - 1.5 * scale * a * shared
    tl.store(results + start + place, y.to(results.dtype.element_ty), mask=place < size)
