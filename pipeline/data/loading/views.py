"""Every augmentation and test protocol as views: what is shown, not how it is decoded.

A view is a box in source pixels that is stretched to the input size, perhaps mirrored, its colours
changed. Views are computed for a whole batch from the image sizes alone;
`pipeline.data.loading.dali` and `pipeline.data.loading.pil` merely execute them. Random numbers
come from (seed, epoch, image).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config.augmentation import Augmentation, NoAugmentation, ProgressiveResizing
from pipeline.config.boxes import (
    Floats,
    Integers,
    Interpolation,
    Shape,
    filter_support,
    whole_image,
)
from pipeline.config.protocol import BoxProtocol, TestProtocol
from pipeline.data.loading.lighting import pca_lighting
from pipeline.data.loading.philox import uniforms

# Columns of an image's random numbers. Flip and colour come first, so that they stay the same
# whatever the crop draws; jitter comes last, so that the others stay the same without it.
_FLIP = 0
_LIGHTING = slice(1, 5)
_CROP = 5


@dataclass(frozen=True)
class Views:
    """The n views of one batch.

    shape: height and width in pixels that the boxes are stretched to.
    images: int64 (n,), indices into the split.
    boxes: float64 (n, 4), (y, x, height, width) in source pixels. A box leaves its image only
        where the augmentation has a `fill`.
    support: int64 (n, 4), (y, x, height, width): the pixels that the resizing filter may read.
    flips: bool (n,), mirror left and right.
    lighting: float32 (n, 3), added to R, G, B in 0–255.
    color_jitter: float32 (n, 3), factors of brightness, contrast and saturation before the lighting
        (`pipeline.data.loading.color_jitter`); 1 leaves the colours alone.
    keys: int64 (n,), a random number of each image in its epoch, for what the network draws;
        `training_plan` sets them, elsewhere they are 0.
    micro_batches: int64 (n,), in rising order, the number of each one's micro-batch in its step;
        likewise.
    boxes_per_image: so many views in a row are of one image, which is decoded once for them. They
        share its first one's flip and lighting, and what any of them may read.
    """

    shape: Shape
    images: Integers
    boxes: Floats
    support: Integers
    flips: NDArray[np.bool_]
    lighting: NDArray[np.float32]
    color_jitter: NDArray[np.float32]
    keys: Integers
    micro_batches: Integers
    boxes_per_image: int = 1

    def take(self, rows: Sequence[int]) -> "Views":
        """Return these views alone; of an image's several, all must be among them."""
        chosen = list(rows)
        return replace(self, **{name: values[chosen] for name, values in self._arrays.items()})

    @staticmethod
    def joined(batches: Sequence["Views"]) -> "Views":
        """Return the views of several batches, of one shape and as many boxes, as of one."""
        first = batches[0]
        if len(batches) == 1:
            return first
        each = [batch._arrays for batch in batches]
        arrays: dict[str, Any] = {
            name: np.concatenate([one[name] for one in each]) for name in each[0]
        }
        return replace(first, **arrays)

    def cut(self, sizes: Sequence[int]) -> Iterator["Views"]:
        """Yield so many of these views at a time, without a copy."""
        start = 0
        for size in sizes:
            rows = slice(start, start := start + size)
            yield replace(self, **{name: values[rows] for name, values in self._arrays.items()})

    @property
    def _arrays(self) -> dict[str, Any]:
        return {
            name: values for name, values in vars(self).items() if isinstance(values, np.ndarray)
        }


def evaluation_views(
    protocol: BoxProtocol,
    size: int,
    images: Integers,
    sizes: NDArray[np.integer],
    shown_size: int | None = None,
    interpolation: Interpolation = "bilinear",
) -> Views:
    """Return the views of a test protocol but for the mirrored ones, those of an image in a row.

    images: int64 (n,). sizes: (n, 2), height and width of each of `images`. size: the side of the
    network's input, for which the boxes are made; `shown_size` is what they are stretched to where
    that is another, by `interpolation`. Mirroring is left to what computes on the views: it costs
    no second resizing.
    """
    shape = (shown_size or size,) * 2
    image_sizes = sizes.astype(np.int64)
    boxes = protocol.boxes(size, image_sizes)
    support = [filter_support(box, shape, image_sizes, interpolation) for box in boxes]
    return _plain_views(
        shape,
        np.repeat(images, len(boxes)),
        np.stack(boxes, axis=1).reshape(-1, 4),
        np.stack(support, axis=1).reshape(-1, 4),
        len(boxes),
    )


def whole_views(shape: Shape, images: Integers, sizes: NDArray[np.integer]) -> Views:
    """Return each image whole, stretched to `shape`; else as `evaluation_views`."""
    boxes = whole_image(sizes.astype(np.int64))
    return _plain_views(shape, images, boxes, boxes.astype(np.int64))


def shifted(views: Views, by: float) -> Views:
    """Return `views` displaced right and down by so many of their own pixels, within the image."""
    sides = views.boxes[:, 2:]
    room = views.support[:, :2] + views.support[:, 2:] - (views.boxes[:, :2] + sides)
    boxes = views.boxes.copy()
    boxes[:, :2] += np.minimum(by * sides / views.shape, np.maximum(room, 0))
    return replace(views, boxes=boxes)


def training_views(
    augmentation: Augmentation,
    protocol: TestProtocol,
    size: int,
    images: Integers,
    sizes: NDArray[np.integer],
    seed: int,
    epoch: int,
    shown_size: int | None = None,
    interpolation: Interpolation = "bilinear",
) -> Views:
    """Return the augmented views of `images` (n,) in `epoch`, else as `evaluation_views`.

    Without augmentation these are the views of `protocol`.
    """
    if isinstance(augmentation, NoAugmentation):
        assert isinstance(protocol, BoxProtocol)  # the recipe refuses others
        return evaluation_views(protocol, size, images, sizes, shown_size, interpolation)
    shape = (shown_size or size,) * 2
    image_sizes = sizes.astype(np.int64)
    look = augmentation.appearance
    jitter_column = _CROP + augmentation.num_random
    num_columns = jitter_column + (look.color_jitter.num_random if look.color_jitter else 0)
    numbers = uniforms(seed, epoch, images, num_columns)
    boxes = augmentation.boxes(size, image_sizes, numbers[:, _CROP:jitter_column])
    color_jitter = np.ones((len(images), 3), dtype=np.float32)
    if look.color_jitter:
        color_jitter = look.color_jitter.factors(numbers[:, jitter_column:])
    return Views(
        shape=shape,
        images=images,
        boxes=boxes,
        support=augmentation.support(boxes, shape, image_sizes, interpolation),
        flips=(numbers[:, _FLIP] < 0.5) & look.flip,
        lighting=pca_lighting(numbers[:, _LIGHTING], look.color_noise, look.color_components),
        color_jitter=color_jitter,
        keys=np.zeros_like(images),
        micro_batches=np.zeros_like(images),
    )


def training_size(size: int, resizing: ProgressiveResizing | None, epoch: int) -> int:
    """Return the side of the training images of `epoch` (from 0), for a network's input `size`."""
    if resizing is None or epoch >= resizing.full_size_from:
        return size
    start, unit = resizing.start_size, resizing.multiple_of
    grown = start + (size - start) * epoch // resizing.full_size_from
    return max(start, grown // unit * unit)


def _plain_views(
    shape: Shape, images: Integers, boxes: Floats, support: Integers, boxes_per_image: int = 1
) -> Views:
    """Return views that are neither mirrored nor changed in colour."""
    n = len(images)
    return Views(
        shape=shape,
        images=images,
        boxes=boxes,
        support=support,
        flips=np.zeros(n, dtype=np.bool_),
        lighting=np.zeros((n, 3), dtype=np.float32),
        color_jitter=np.ones((n, 3), dtype=np.float32),
        keys=np.zeros_like(images),
        micro_batches=np.zeros_like(images),
        boxes_per_image=boxes_per_image,
    )
