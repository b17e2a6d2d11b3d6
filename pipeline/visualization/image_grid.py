"""Grids of small images, as PIL images."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Pixels = NDArray[np.uint8]

_PAPER = (255, 255, 255)


def to_pixels(image: Tensor) -> Pixels:
    """Convert an image (c, h, w), c 1 or 3, in 0–1 to RGB (h, w, 3)."""
    values = image.detach().clamp(0, 1).mul(255).round().byte().cpu().numpy()
    return np.broadcast_to(values, (3, *values.shape[1:])).transpose(1, 2, 0)


def signed_to_pixels(image: Tensor) -> Pixels:
    """Convert an image with values around 0 to RGB; 0 is grey.

    The scale ends at the 99th percentile of the absolute values other than 0: else a few bright
    points would leave the rest grey.
    """
    magnitudes = image[image != 0].abs()
    end = torch.quantile(magnitudes, 0.99) if len(magnitudes) else torch.tensor(1.0)
    return to_pixels(0.5 + 0.5 * image / end)


def enlarged(pixels: Pixels, side: int, *, smooth: bool) -> Image.Image:
    """Enlarge to `side` pixels, interpolated if `smooth`, else with each pixel a square."""
    filter = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((side, side), filter)


def grid(tiles: Sequence[Image.Image], columns: int | None = None, gap: int = 2) -> Image.Image:
    """Lay tiles out in cells of one size; by default with about as many columns as rows."""
    columns = columns or math.ceil(math.sqrt(len(tiles)))
    width, height = (max(sides) + gap for sides in zip(*(t.size for t in tiles), strict=True))
    rows = math.ceil(len(tiles) / columns)
    image = Image.new("RGB", (columns * width - gap, rows * height - gap), _PAPER)
    for i, tile in enumerate(tiles):
        image.paste(tile, (i % columns * width, i // columns * height))
    return image
