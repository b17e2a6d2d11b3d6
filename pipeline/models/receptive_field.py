"""How far into its input each position of a map sees.

The arithmetic is that of Dumoulin & Visin, "A guide to convolution arithmetic for deep learning"
(2016), and, where branches meet, of Araujo, Norris & Sim, "Computing Receptive Fields of
Convolutional Neural Networks" (Distill, 2019). One axis at a time:

    receptive field out = receptive field in + (kernel − 1) · dilation · jump in
    jump out            = jump in · stride

A layer that joins all positions, fully connected or a global pooling, acts as a kernel of the
map's size. What lies in the padding counts as seen, so a field can be larger than the input.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Window:
    """What a layer reads along one axis for one position, in positions of the map before it.

    `padding` is before the first position and after the last; pooling that rounds up reads
    further, past the end, without saying so here.
    """

    kernel: int = 1
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    dilation: int = 1


@dataclass(frozen=True)
class Axis:
    """What a map with `num_positions` along one axis sees of the input, in input pixels.

    Its position 0 sees the pixels from `first` to `last`, below 0 in the padding; each further
    position sees those `jump` pixels further on.
    """

    num_positions: int
    first: int = 0
    last: int = 0
    jump: int = 1

    @property
    def receptive_field(self) -> int:
        return self.last - self.first + 1

    def through(self, window: Window, num_positions: int) -> "Axis":
        """Return the axis of the map that `window` makes of this one."""
        first = self.first - window.padding[0] * self.jump
        reach = self.receptive_field - 1 + (window.kernel - 1) * window.dilation * self.jump
        return Axis(num_positions, first, first + reach, self.jump * window.stride)


def union(branches: Sequence[Axis]) -> Axis:
    """Return what a sum or a concatenation of maps sees: all that any of them sees.

    That is the largest field among them where they have the same centre, and more where not.
    Raises `ValueError` for maps that do not lie on one grid.
    """
    grids = {(axis.num_positions, axis.jump) for axis in branches}
    if len(grids) != 1:
        raise ValueError(f"maps of other sizes or jumps can't be joined: {sorted(grids)}")
    first = min(axis.first for axis in branches)
    last = max(axis.last for axis in branches)
    return Axis(branches[0].num_positions, first, last, branches[0].jump)


def joins_positions(layer: nn.Module) -> bool:
    """Say whether each output of `layer` sees the whole map before it."""
    return isinstance(layer, nn.Linear | nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d)


def windows_of(layer: nn.Module, sizes: tuple[int, ...]) -> tuple[Window, ...]:
    """Return the windows of `layer`, one an axis, on a map of `sizes`.

    Empty for a layer that sees each position alone: any kind that isn't known to have a window.
    Raises `NotImplementedError` for a padding or a pooling that isn't plain numbers.
    """
    if joins_positions(layer):
        if getattr(layer, "output_size", 1) not in (1, (1,), (1, 1)):
            raise NotImplementedError("adaptive pooling to more than one position")
        return tuple(Window(size) for size in sizes)
    axes = range(len(sizes))
    match layer:
        case nn.Conv1d() | nn.Conv2d() | nn.MaxPool1d() | nn.MaxPool2d():
            dilation = layer.dilation
        case nn.AvgPool1d() | nn.AvgPool2d():
            dilation = 1
        case nn.ConstantPad1d() | nn.ConstantPad2d() | nn.ConstantPad3d():
            # From the last axis to the first; the third is the channels, where no one looks.
            pairs = list(zip(layer.padding[::2], layer.padding[1::2], strict=True))
            return tuple(Window(padding=pairs[len(sizes) - 1 - i]) for i in axes)
        case _:
            return ()
    if isinstance(layer.padding, str):
        raise NotImplementedError(f"padding '{layer.padding}': give it in numbers")
    padding = [_along(layer.padding, i) for i in axes]
    return tuple(
        Window(
            kernel=_along(layer.kernel_size, i),
            stride=_along(layer.stride, i),
            padding=(padding[i], padding[i]),
            dilation=_along(dilation, i),
        )
        for i in axes
    )


def _along(value: int | tuple[int, ...], axis: int) -> int:
    return value if isinstance(value, int) else value[axis]
