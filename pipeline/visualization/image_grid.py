"""Sheets of small pictures with captions, as PIL images."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Pixels = NDArray[np.uint8]

_PAPER, _INK, _GAP, _TEXT = (255, 255, 255), (51, 51, 51), 2, 13
# Dark for little, bright for much; a reading of matplotlib's viridis at five points.
_LITTLE_TO_MUCH = np.array(
    [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], float
)


def to_pixels(picture: Tensor) -> Pixels:
    """Turn a picture (c, h, w), c 1 or 3, in 0–1 into RGB (h, w, 3)."""
    values = picture.detach().clamp(0, 1).mul(255).round().byte().cpu().numpy()
    return np.broadcast_to(values, (3, *values.shape[1:])).transpose(1, 2, 0)


def signed_to_pixels(picture: Tensor) -> Pixels:
    """Turn a picture around 0 into RGB; 0 is grey.

    The scale ends where one in a hundred of the values that are not 0 is larger: else a few bright
    points would leave the rest grey.
    """
    sizes = picture[picture != 0].abs()
    end = torch.quantile(sizes, 0.99) if len(sizes) else torch.tensor(1.0)
    return to_pixels(0.5 + 0.5 * picture / end)


def heat(values: Tensor) -> Pixels:
    """Turn values (h, w) in 0–1 into colours, dark for 0, bright for 1."""
    place = values.clamp(0, 1).cpu().numpy() * (len(_LITTLE_TO_MUCH) - 1)
    channels = [np.interp(place, range(len(_LITTLE_TO_MUCH)), c) for c in _LITTLE_TO_MUCH.T]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def enlarged(pixels: Pixels, side: int, *, smooth: bool) -> Image.Image:
    """Enlarge to `side` pixels; or else keep each of its pixels a square."""
    filter = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((side, side), filter)


def grid(tiles: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """Lay tiles of one size out in rows, of about as many as there are rows."""
    columns = columns or math.ceil(math.sqrt(len(tiles)))
    width, height = (side + _GAP for side in tiles[0].size)
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (columns * width - _GAP, rows * height - _GAP), _PAPER)
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % columns * width, i // columns * height))
    return sheet


def side_by_side(pictures: Sequence[Image.Image], gap: int = 8) -> Image.Image:
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    row = Image.new("RGB", (width, max(picture.height for picture in pictures)), _PAPER)
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + gap
    return row


def captioned(picture: Image.Image, caption: str, margin: int = 6) -> Image.Image:
    """Put a line of text above a picture, and room around both."""
    font = ImageFont.load_default(_TEXT)
    width = max(picture.width, math.ceil(font.getlength(caption)))
    size = (width + 2 * margin, picture.height + _TEXT + 3 * margin)
    sheet = Image.new("RGB", size, _PAPER)
    ImageDraw.Draw(sheet).text((margin, margin), caption, fill=_INK, font=font)
    sheet.paste(picture, (margin, _TEXT + 2 * margin))
    return sheet
