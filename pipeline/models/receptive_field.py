"""The receptive field in the input of each position of a map.

The arithmetic is that of Dumoulin & Visin, "A guide to convolution arithmetic for deep learning"
(2016), and, where branches meet, of Araujo, Norris & Sim, "Computing Receptive Fields of
Convolutional Neural Networks" (Distill, 2019). One axis at a time:

    receptive field out = receptive field in + (kernel − 1) · dilation · jump in
    jump out            = jump in · stride

A layer that joins all positions, fully connected or a global pooling, acts as a kernel of the
map's size. Padding counts as part of a field, which can so be larger than the input.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Window:
    """The window of a layer along one axis, in positions of the layer's input map.

    `padding` is before the first position and after the last; the extra padding at the end that
    pooling in `ceil_mode` adds isn't included.
    """

    kernel: int = 1
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    dilation: int = 1


@dataclass(frozen=True)
class AxisField:
    """The receptive fields of a map with `num_positions` along one axis, in input pixels.

    The field of position 0 reaches from pixel `first` to `last`; pixels below 0 are padding. The
    field of each next position lies `jump` pixels further on.
    """

    num_positions: int
    first: int = 0
    last: int = 0
    jump: int = 1

    @property
    def receptive_field(self) -> int:
        return self.last - self.first + 1

    def after(self, window: Window, num_positions: int) -> "AxisField":
        """Return the fields of the map with `num_positions` that `window` makes of this one."""
        first = self.first - window.padding[0] * self.jump
        reach = self.receptive_field - 1 + (window.kernel - 1) * window.dilation * self.jump
        return AxisField(num_positions, first, first + reach, self.jump * window.stride)


def merge_branches(branches: Sequence[AxisField]) -> AxisField:
    """Return the fields of a sum or a concatenation of maps: the hull of the branches' fields.

    That is the largest of them if they have the same centre, else more. Raises `ValueError` for
    maps with different numbers of positions or jumps.
    """
    grids = {(axis.num_positions, axis.jump) for axis in branches}
    if len(grids) != 1:
        raise ValueError(f"maps of other sizes or jumps can't be joined: {sorted(grids)}")
    first = min(axis.first for axis in branches)
    last = max(axis.last for axis in branches)
    return AxisField(branches[0].num_positions, first, last, branches[0].jump)


_GLOBAL = (1, (1,), (1, 1))


def joins_positions(layer: nn.Module) -> bool:
    """Return whether each output of `layer` depends on its whole input map."""
    return isinstance(layer, nn.Linear | nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d)


def windows_of(layer: nn.Module, sizes: tuple[int, ...]) -> tuple[Window, ...]:
    """Return the windows of `layer`, one an axis, on a map of `sizes`.

    Empty for a layer that acts on each position alone: any kind that isn't known to have a window.
    Raises `NotImplementedError` for a padding given by name, and for adaptive pooling to more than
    one position.
    """
    axes = range(len(sizes))
    match layer:
        case nn.AdaptiveAvgPool1d() | nn.AdaptiveAvgPool2d() if layer.output_size not in _GLOBAL:
            raise NotImplementedError("adaptive pooling to more than one position")
        case nn.Linear() | nn.AdaptiveAvgPool1d() | nn.AdaptiveAvgPool2d():
            return tuple(Window(size) for size in sizes)
        case nn.Conv1d() | nn.Conv2d() | nn.MaxPool1d() | nn.MaxPool2d():
            dilation = layer.dilation
        case nn.AvgPool1d() | nn.AvgPool2d():
            dilation = 1
        case nn.ConstantPad1d() | nn.ConstantPad2d() | nn.ConstantPad3d():
            # From the last axis to the first; the third, the channels, doesn't matter here.
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
