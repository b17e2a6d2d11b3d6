"""Test protocols as boxes, and the geometry of resizing first and cropping then.

Everything is computed for a whole batch from the image sizes alone. Axes are (y, x) throughout,
boxes (y, x, height, width) in source pixels. Rounding is the papers'; where they say nothing,
torchvision's.
"""

from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from pipeline.config.protocol import CenterCrop, Crops, WholeImage

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Shape = tuple[int, int]  # height and width


def protocol_boxes(
    protocol: WholeImage | CenterCrop | Crops, size: int, sizes: Integers
) -> tuple[Floats, ...]:
    """Return the boxes of a protocol's views, each float64 (n, 4), in its own order.

    size: the side of the network's input. sizes: int64 (n, 2), height and width of the images.
    """
    match protocol:
        case WholeImage():
            return (whole_image(sizes),)
        case CenterCrop():
            return (_center_crop(protocol, size, sizes),)
        case Crops():
            return tuple(
                box for side in protocol.resize for box in _crops(protocol, side, size, sizes)
            )
        case _:
            assert_never(protocol)


def whole_image(sizes: Integers) -> Floats:
    return np.concatenate([np.zeros_like(sizes), sizes], axis=1).astype(np.float64)


def rescaled(sizes: Integers, shorter_side: Integers | int) -> Integers:
    """Return the sizes after the shorter side became `shorter_side`; the longer one rounds down.

    As torchvision's `Resize`.
    """
    shortest = sizes.min(axis=1, keepdims=True)
    return np.broadcast_to(shorter_side, (len(sizes), 1)) * sizes // shortest


def crop_of_rescaled(
    offsets: Integers, side: int, rescaled_sizes: Integers, sizes: Integers
) -> Floats:
    """Return, in source pixels, the square of `side` at `offsets` (n, 2) in rescaled images."""
    pixel = sizes / rescaled_sizes
    return np.concatenate([offsets * pixel, side * pixel], axis=1)


def center(extents: Integers, side: int) -> Integers:
    """Return the offset (n, 2) of the centre square of `side` in each of `extents` (n, 2)."""
    # torchvision's CenterCrop: Python's round, which takes halves to the even neighbour.
    return np.rint((extents - side) / 2).astype(np.int64)


def filter_support(boxes: Floats, shape: Shape, sizes: Integers | None = None) -> Integers:
    """Return the hull of what a linear filter reads around `boxes`, clipped to images of `sizes`.

    When it shrinks, the triangle reaches one output pixel's width to each side, and one source
    pixel when it enlarges. `shape` is what the boxes become.
    """
    starts, sides = boxes[:, :2], boxes[:, 2:]
    support = np.maximum(sides / shape, 1.0)
    low = np.floor(starts - support).astype(np.int64)
    high = np.ceil(starts + sides + support).astype(np.int64)
    if sizes is not None:
        low, high = np.maximum(low, 0), np.minimum(high, sizes)
    return np.concatenate([low, high - low], axis=1)


def _center_crop(protocol: CenterCrop, size: int, sizes: Integers) -> Floats:
    """Shorter side, or both, to `resize`; then the centre square of `size` (VGG §3.2)."""
    side = protocol.resize
    resized = np.full_like(sizes, side) if protocol.squash else rescaled(sizes, side)
    return crop_of_rescaled(center(resized, size), size, resized, sizes)


def _crops(protocol: Crops, side: int, size: int, sizes: Integers) -> list[Floats]:
    resized = rescaled(sizes, side)
    boxes = []
    for start, extent in _areas(protocol.of, side, resized):
        offsets = _offsets(protocol.positions, size, extent)
        boxes += [crop_of_rescaled(start + at, size, resized, sizes) for at in offsets]
        if protocol.stretched:
            pixel = sizes / resized
            boxes.append(np.concatenate([start * pixel, extent * pixel], axis=1))
    return boxes


def _areas(of: str, side: int, resized: Integers) -> list[tuple[Integers, Integers]]:
    """Return the offset and the extent, each (n, 2), of every area that crops are cut from."""
    square = np.full_like(resized, side)
    zero = np.zeros_like(resized)
    match of:
        case "image":
            return [(zero, resized)]
        case "center-square":
            return [(center(resized, side), square)]
        case _:  # left, centre and right, or top, centre and bottom
            return [(start, square) for start in (zero, center(resized, side), resized - side)]


def _offsets(positions: str | int, size: int, extent: Integers) -> list[Integers]:
    """Return the offsets (n, 2) of crops of `size` within areas of `extent` (n, 2)."""
    middle, last = center(extent, size), extent - size
    if positions == "center":
        return [middle]
    if positions == "corners-and-center":
        zero = np.zeros_like(last)
        corners = [np.stack([y[:, 0], x[:, 1]], axis=1) for y in (zero, last) for x in (zero, last)]
        return [*corners[:2], middle, *corners[2:]]
    steps = np.linspace(0, 1, int(positions))
    return [np.rint(last * (y, x)).astype(np.int64) for y in steps for x in steps]
