"""Every augmentation and test protocol of the papers as views: what is seen, not how it is decoded.

A view is a box in source pixels that is stretched to the input size, perhaps mirrored and tinted.
Views are computed for a whole batch from the image sizes alone; `pipeline.data.loading.dali` and
`pipeline.data.loading.pil` merely execute them. Random numbers come from (seed, epoch, image).

Axes are (y, x) throughout. Rounding is the papers'; where they say nothing, torchvision's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.config.augmentation import (
    AlexNetCrop,
    Augmentation,
    ColorJitter,
    NoAugmentation,
    ProgressiveResizing,
    RandomAffine,
    RandomResizedCrop,
    ScaleJitter,
)
from pipeline.config.protocol import CenterCrop, Crops, TestProtocol, WholeImage
from pipeline.data.loading.boxes import (
    Floats,
    Integers,
    Shape,
    center,
    crop_of_rescaled,
    filter_support,
    protocol_boxes,
    rescaled,
    whole_image,
)
from pipeline.data.loading.philox import uniforms

# Principal components of ImageNet's RGB pixels, from the input_meta file of cuda-convnet2, with
# which AlexNet was trained: standard deviations in grey levels (0–255), and eigenvectors as
# columns in the same order, rows R, G, B.
RGB_STDS = np.array([19.72083, 37.09389, 121.78006])
RGB_EIGENVECTORS = np.array(
    [
        [0.41795513, -0.71257945, -0.56351045],
        [-0.81698062, -0.02354167, -0.57618440],
        [0.39731118, 0.70119634, -0.59200296],
    ]
)

# Those of fb.resnet.torch (`datasets/imagenet.lua`), which DenseNet's code took over, for pixels in
# 0–1. Its "eigval" are variances, and scale the steps without a root: main axis 5.5 grey levels at
# strength 0.1, where AlexNet's code has 12.2.
FB_STEPS = 255 * np.array([0.2175, 0.0188, 0.0045])
FB_EIGENVECTORS = np.array(
    [
        [-0.5675, 0.7192, 0.4009],
        [-0.5808, -0.0045, -0.8140],
        [-0.5836, -0.6948, 0.4203],
    ]
)

_COMPONENTS = {
    "cuda-convnet": (RGB_STDS, RGB_EIGENVECTORS),
    "fb": (FB_STEPS, FB_EIGENVECTORS),
}

_AREA_TRIES = 10
_NUM_JITTERS = 3

# Columns of an image's random numbers. Flip and colour come first, so that they stay the same
# whatever the crop draws; jitter comes last, so that the others stay the same without it.
_FLIP = 0
_COLOR = slice(1, 5)
_CROP = 5


@dataclass(frozen=True)
class Views:
    """The n views of one batch.

    shape: height and width in pixels that the boxes are stretched to.
    images: int64 (n,), indices into the split.
    boxes: float64 (n, 4), (y, x, height, width) in source pixels. A box leaves its image only
        where the augmentation has a `fill`.
    regions: int64 (n, 4), (y, x, height, width): the pixels that the resizing filter may read.
    flips: bool (n,), mirror left and right.
    color_shifts: float32 (n, 3), added to R, G, B in 0–255.
    color_factors: float32 (n, 3), of brightness, contrast and saturation before the shifts
        (`pipeline.data.loading.color_jitter`); 1 leaves the colours alone.
    boxes_per_image: so many views in a row are of one image, which is decoded once for them. They
        share its first one's flip and shifts, and what any of them may read.
    """

    shape: Shape
    images: Integers
    boxes: Floats
    regions: Integers
    flips: NDArray[np.bool_]
    color_shifts: NDArray[np.float32]
    color_factors: NDArray[np.float32]
    boxes_per_image: int = 1

    def take(self, rows: Sequence[int]) -> "Views":
        """Return these views alone; of an image's several, all must be among them."""
        whole = ("shape", "boxes_per_image")
        columns = {name: values for name, values in vars(self).items() if name not in whole}
        return replace(self, **{name: values[list(rows)] for name, values in columns.items()})


def evaluation_views(
    protocol: WholeImage | CenterCrop | Crops,
    size: int,
    images: Integers,
    sizes: NDArray[np.integer],
    shown_size: int | None = None,
) -> Views:
    """Return the views of a test protocol but for the mirrored ones, those of an image in a row.

    images: int64 (n,). sizes: (n, 2), height and width of each of `images`. size: the side of the
    network's input, for which the boxes are made; `shown_size` is what they are stretched to where
    that is another. Mirroring is left to what computes on the views: it costs no second resizing.
    """
    shape = (shown_size or size,) * 2
    whole = sizes.astype(np.int64)
    boxes = protocol_boxes(protocol, size, whole)
    if isinstance(protocol, WholeImage):
        regions = [whole_image(whole).astype(np.int64)]
    else:
        regions = [filter_support(box, shape, whole) for box in boxes]
    each = len(boxes)
    return _plain(
        shape,
        np.repeat(images, each),
        np.stack(boxes, axis=1).reshape(-1, 4),
        np.stack(regions, axis=1).reshape(-1, 4),
        each,
    )


def whole_views(shape: Shape, images: Integers, sizes: NDArray[np.integer]) -> Views:
    """Return each image whole, stretched to `shape`; else as `evaluation_views`."""
    boxes = whole_image(sizes.astype(np.int64))
    return _plain(shape, images, boxes, boxes.astype(np.int64))


def shifted(views: Views, by: float) -> Views:
    """Return `views` displaced right and down by so many of their own pixels, within the image."""
    sides = views.boxes[:, 2:]
    room = views.regions[:, :2] + views.regions[:, 2:] - (views.boxes[:, :2] + sides)
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
) -> Views:
    """Return the augmented views of `images` (n,) in `epoch`, else as `evaluation_views`.

    Without augmentation these are the views of `protocol`.
    """
    if isinstance(augmentation, NoAugmentation):
        assert isinstance(protocol, WholeImage | CenterCrop)  # says the recipe
        return evaluation_views(protocol, size, images, sizes, shown_size)
    shape = (shown_size or size,) * 2
    whole = sizes.astype(np.int64)
    jitter = _CROP + _num_crop_numbers(augmentation)
    numbers = uniforms(seed, epoch, images, jitter + _NUM_JITTERS)
    crop = numbers[:, _CROP:jitter]
    if isinstance(augmentation, RandomAffine):
        boxes = _shift_scale(augmentation, whole, crop)
        # Fill takes part in the filter like any pixel, so that the region may leave the image.
        return _plain(shape, images, boxes, filter_support(boxes, shape))
    if isinstance(augmentation, RandomResizedCrop):
        boxes = _area(augmentation, whole, crop)
        regions = boxes.astype(np.int64)
        components = augmentation.color_components
        factors = _color_factors(numbers[:, jitter:], augmentation.color_jitter)
    else:
        if isinstance(augmentation, AlexNetCrop):
            boxes = _alexnet(augmentation, size, whole, crop)
        else:
            boxes = _scale_jitter(augmentation, size, whole, crop)
        regions = filter_support(boxes, shape, whole)
        components = "cuda-convnet"
        factors = _unjittered(images)
    return Views(
        shape=shape,
        images=images,
        boxes=boxes,
        regions=regions,
        flips=(numbers[:, _FLIP] < 0.5) & augmentation.flip,
        color_shifts=_color_shifts(numbers[:, _COLOR], augmentation.color_noise, components),
        color_factors=factors,
    )


def training_size(size: int, resizing: ProgressiveResizing | None, epoch: int) -> int:
    """Return the side of the training images of `epoch` (from 0), for a network's input `size`."""
    if resizing is None or epoch >= resizing.full_size_from:
        return size
    start, unit = resizing.start_size, resizing.multiple_of
    grown = start + (size - start) * epoch // resizing.full_size_from
    return max(start, grown // unit * unit)


def fill_of(augmentation: Augmentation) -> int | None:
    """Return the grey level (0–255) outside the image, or None where no box leaves the image."""
    return augmentation.fill if isinstance(augmentation, RandomAffine) else None


def _num_crop_numbers(augmentation: Augmentation) -> int:
    if isinstance(augmentation, RandomResizedCrop):
        return 2 + 2 * _AREA_TRIES
    return 2 if isinstance(augmentation, AlexNetCrop) else 3


def _plain(
    shape: Shape, images: Integers, boxes: Floats, regions: Integers, boxes_per_image: int = 1
) -> Views:
    return Views(
        shape=shape,
        images=images,
        boxes=boxes,
        regions=regions,
        flips=np.zeros(len(images), dtype=np.bool_),
        color_shifts=np.zeros((len(images), 3), dtype=np.float32),
        color_factors=_unjittered(images),
        boxes_per_image=boxes_per_image,
    )


def _integers(numbers: Floats, count: Integers | int) -> Integers:
    """Return integers uniform in `0..count - 1` from numbers uniform in [0, 1)."""
    return (numbers * count).astype(np.int64)


def _alexnet(augmentation: AlexNetCrop, size: int, sizes: Integers, numbers: Floats) -> Floats:
    """A random square of `size` in the central square of the rescaled image (AlexNet §2, §4.1)."""
    resized = rescaled(sizes, augmentation.resize)
    offsets = _integers(numbers[:, :2], augmentation.resize - size + 1)
    square = center(resized, augmentation.resize)
    return crop_of_rescaled(square + offsets, size, resized, sizes)


def _scale_jitter(augmentation: ScaleJitter, size: int, sizes: Integers, numbers: Floats) -> Floats:
    """A random square of `size` in the image at a random scale (VGG §3.1, ResNet §3.4)."""
    num_sides = augmentation.max_side - augmentation.min_side + 1
    shorter_sides = augmentation.min_side + _integers(numbers[:, 2:3], num_sides)
    resized = rescaled(sizes, shorter_sides)
    offsets = _integers(numbers[:, :2], resized - size + 1)
    return crop_of_rescaled(offsets, size, resized, sizes)


def _shift_scale(augmentation: RandomAffine, sizes: Integers, numbers: Floats) -> Floats:
    """The whole image drawn larger or smaller, and shifted, around its centre."""
    spread = augmentation.max_scale - augmentation.min_scale
    sides = sizes / (augmentation.min_scale + numbers[:, 2:3] * spread)
    shifts = (2 * numbers[:, :2] - 1) * augmentation.max_shift * sizes
    return np.concatenate([(sizes - sides) / 2 + shifts, sides], axis=1)


def _area(augmentation: RandomResizedCrop, sizes: Integers, numbers: Floats) -> Floats:
    """A random share of the area at a random aspect ratio (GoogLeNet §6).

    As torchvision's `RandomResizedCrop`, which draws the ratio's logarithm: integer boxes, the
    first of ten tries that fits, else the largest centre crop of an allowed ratio. The filter
    stops at the box.
    """
    share = augmentation.min_area + numbers[:, 2 : 2 + _AREA_TRIES] * (
        augmentation.max_area - augmentation.min_area
    )
    area = sizes.prod(axis=1, keepdims=True) * share
    limit = augmentation.max_aspect_ratio
    ratio = np.exp((2 * numbers[:, 2 + _AREA_TRIES :] - 1) * np.log(limit))
    tried = np.rint(np.sqrt(np.stack([area / ratio, area * ratio], axis=2))).astype(np.int64)
    fits = ((tried > 0) & (tried <= sizes[:, None])).all(axis=2)
    first = fits.argmax(axis=1)
    sides = tried[np.arange(len(sizes)), first]
    starts = _integers(numbers[:, :2], sizes - sides + 1)

    none_fits = ~fits.any(axis=1, keepdims=True)
    widest = np.rint(sizes[:, ::-1] * limit).astype(np.int64)
    largest = np.minimum(sizes, widest)
    sides = np.where(none_fits, largest, sides)
    starts = np.where(none_fits, (sizes - largest) // 2, starts)
    return np.concatenate([starts, sides], axis=1).astype(np.float64)


def _unjittered(images: Integers) -> NDArray[np.float32]:
    return np.ones((len(images), _NUM_JITTERS), dtype=np.float32)


def _color_factors(numbers: Floats, jitter: ColorJitter | None) -> NDArray[np.float32]:
    """Return float32 (n, 3): factors uniform in 1 ± strength."""
    if jitter is None:
        return np.ones(numbers.shape, dtype=np.float32)
    strengths = np.array([jitter.brightness, jitter.contrast, jitter.saturation])
    return (1 + (2 * numbers - 1) * strengths).astype(np.float32)


def _color_shifts(numbers: Floats, strength: float, components: str) -> NDArray[np.float32]:
    """Return AlexNet's colour noise, float32 (n, 3): a normal step along each component (§4.1).

    The paper's λ must be read as the root of the eigenvalue in 0–255 units; its own code does.
    """
    # Box and Muller, "A Note on the Generation of Random Normal Deviates" (1958). 1 - u is in
    # (0, 1], which the logarithm needs.
    radius = np.sqrt(-2 * np.log(1 - numbers[:, 0::2]))
    angle = 2 * np.pi * numbers[:, 1::2]
    normals = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :3]
    steps, eigenvectors = _COMPONENTS[components]
    return ((normals * steps * strength) @ eigenvectors.T).astype(np.float32)
