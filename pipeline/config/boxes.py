"""Boxes in source pixels, and the geometry of resizing first and cropping then.

Everything is computed for a whole batch from the image sizes alone. Axes are (y, x) throughout,
boxes (y, x, height, width) in source pixels. Rounding is the papers'; where they say nothing,
torchvision's.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Shape = tuple[int, int]  # height and width

# How pixels are resized. All are antialiased: the filter widens where the image shrinks.
Interpolation = Literal["bilinear", "bicubic", "lanczos"]
# How far each filter reads to both sides, in pixels of the coarser grid.
FILTER_RADIUS: dict[Interpolation, int] = {"bilinear": 1, "bicubic": 2, "lanczos": 3}


def whole_image(sizes: Integers) -> Floats:
    """Return the boxes (n, 4) of whole images of `sizes` (n, 2)."""
    return np.concatenate([np.zeros_like(sizes), sizes], axis=1).astype(np.float64)


def resized(sizes: Integers, shorter_side: Integers | int) -> Integers:
    """Return the sizes after the shorter side became `shorter_side`; the longer one rounds down.

    As torchvision's `Resize`.
    """
    shortest = sizes.min(axis=1, keepdims=True)
    return np.broadcast_to(shorter_side, (len(sizes), 1)) * sizes // shortest


def crop_of_resized(
    offsets: Integers, side: int, resized_sizes: Integers, sizes: Integers
) -> Floats:
    """Return, in source pixels, the square of `side` at `offsets` (n, 2) in resized images."""
    pixel = sizes / resized_sizes
    return np.concatenate([offsets * pixel, side * pixel], axis=1)


def center_offset(extents: Integers, side: int) -> Integers:
    """Return the offset (n, 2) of the centre square of `side` in each of `extents` (n, 2)."""
    # torchvision's CenterCrop: Python's round, which takes halves to the even neighbour.
    return np.rint((extents - side) / 2).astype(np.int64)


def filter_support(
    boxes: Floats,
    shape: Shape,
    sizes: Integers | None = None,
    interpolation: Interpolation = "bilinear",
) -> Integers:
    """Return the hull of what the filter reads around `boxes`, clipped to images of `sizes`.

    When it shrinks, the triangle of a linear filter reaches one output pixel's width to each side,
    and one source pixel when it enlarges; others reach further. `shape` is what the boxes become.
    """
    starts, sides = boxes[:, :2], boxes[:, 2:]
    reach = FILTER_RADIUS[interpolation] * np.maximum(sides / shape, 1.0)
    low = np.floor(starts - reach).astype(np.int64)
    high = np.ceil(starts + sides + reach).astype(np.int64)
    if sizes is not None:
        low, high = np.maximum(low, 0), np.minimum(high, sizes)
    return np.concatenate([low, high - low], axis=1)
