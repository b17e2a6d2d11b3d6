"""Grids of small images with captions, as PIL images."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Pixels = NDArray[np.uint8]

_PAPER, _INK, _GAP, _TEXT = (255, 255, 255), (51, 51, 51), 2, 13
# From low to high: matplotlib's viridis at five points.
_HEATMAP = np.array(
    [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], float
)


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


def heatmap(values: Tensor) -> Pixels:
    """Convert values (h, w) in 0–1 to colours, dark for 0, bright for 1."""
    position = values.clamp(0, 1).cpu().numpy() * (len(_HEATMAP) - 1)
    channels = [np.interp(position, range(len(_HEATMAP)), c) for c in _HEATMAP.T]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def enlarged(pixels: Pixels, side: int, *, smooth: bool) -> Image.Image:
    """Enlarge to `side` pixels, interpolated if `smooth`, else with each pixel a square."""
    filter = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((side, side), filter)


def grid(tiles: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """Lay tiles out in cells of one size; by default with about as many columns as rows."""
    columns = columns or math.ceil(math.sqrt(len(tiles)))
    width, height = (max(sides) + _GAP for sides in zip(*(t.size for t in tiles), strict=True))
    rows = math.ceil(len(tiles) / columns)
    image = Image.new("RGB", (columns * width - _GAP, rows * height - _GAP), _PAPER)
    for i, tile in enumerate(tiles):
        image.paste(tile, (i % columns * width, i // columns * height))
    return image


def side_by_side(images: Sequence[Image.Image], gap: int = 8) -> Image.Image:
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    row = Image.new("RGB", (width, max(image.height for image in images)), _PAPER)
    left = 0
    for image in images:
        row.paste(image, (left, 0))
        left += image.width + gap
    return row


def captioned(image: Image.Image, caption: str, margin: int = 6) -> Image.Image:
    """Add a line of text above an image, and a margin around both."""
    font = ImageFont.load_default(_TEXT)
    width = max(image.width, math.ceil(font.getlength(caption)))
    size = (width + 2 * margin, image.height + _TEXT + 3 * margin)
    framed = Image.new("RGB", size, _PAPER)
    ImageDraw.Draw(framed).text((margin, margin), caption, fill=_INK, font=font)
    framed.paste(image, (margin, _TEXT + 2 * margin))
    return framed
