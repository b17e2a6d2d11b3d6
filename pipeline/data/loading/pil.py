"""Executes views by PIL, one image after another: the reference that DALI is tested against.

It is also the backend of machines without DALI.
"""

import io
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.config.boxes import Interpolation
from pipeline.config.recipe import InputConfig
from pipeline.data.loading.views import Views
from pipeline.data.store.image_check import in_8_bits
from pipeline.data.store.store import Split

_RESAMPLING: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class PilImages:
    """Yields the images of each `Views`, float32 (n, c, h, w), in order.

    Raises what PIL raises when an image can't be decoded.
    """

    def __init__(
        self,
        split: Split,
        views: Iterator[Views],
        input: InputConfig,
        *,
        fill: int | None,
        channels_last: bool,
    ) -> None:
        self._split = split
        self._views = views
        self._input = input
        self._fill = fill or 0
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._mean = np.array(input.mean, dtype=np.float32)
        self._std = np.array(input.std, dtype=np.float32)

    def __next__(self) -> Tensor:
        views = next(self._views)
        num_boxes = views.boxes_per_image
        encoded = self._split.verified_batch(views.images[::num_boxes].tolist())
        images = np.stack(
            [
                self._view(image, views, row)
                for number, image in enumerate(map(self._decoded, encoded))
                for row in range(number * num_boxes, (number + 1) * num_boxes)
            ]
        )
        batch = torch.from_numpy(images).permute(0, 3, 1, 2)
        return batch.contiguous(memory_format=self._layout)

    def close(self) -> None:
        """There is nothing to release."""

    def _decoded(self, data: NDArray[np.uint8]) -> Image.Image:
        return _decode(data).convert("RGB" if self._input.color == "rgb" else "L")

    def _view(self, image: Image.Image, views: Views, row: int) -> NDArray[np.float32]:
        y, x, support_height, support_width = views.support[row].tolist()
        support = self._cut(image, y, x, support_height, support_width)
        top, left, height, width = views.boxes[row].tolist()
        # A box that ends at the support's edge may be past it by a rounding error.
        box = (
            left - x,
            top - y,
            min(left - x + width, support_width),
            min(top - y + height, support_height),
        )
        rows, columns = views.shape
        view = support.resize((columns, rows), _RESAMPLING[self._input.interpolation], box=box)
        if views.flips[row]:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = np.asarray(view, dtype=np.float32).reshape(rows, columns, self._input.num_channels)
        lighting = views.lighting[row, : self._input.num_channels]
        return (pixels + lighting - self._mean) / self._std

    def _cut(self, image: Image.Image, y: int, x: int, height: int, width: int) -> Image.Image:
        fill = (self._fill,) * self._input.num_channels
        cut = Image.new(image.mode, (width, height), fill)
        cut.paste(image, (-x, -y))
        return cut


def _decode(encoded: NDArray[np.uint8]) -> Image.Image:
    with Image.open(io.BytesIO(encoded.tobytes())) as file:
        file.load()
    return in_8_bits(file)
