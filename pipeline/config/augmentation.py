"""How training images are varied: their crops, their colours, and how images are mixed.

A kind of augmentation is one class: its keys in a recipe, the random numbers that the box of an
image takes, and the boxes made of them. To add a kind, write its class and name it in
`Augmentation`.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from pipeline.config.boxes import (
    Floats,
    Integers,
    Interpolation,
    Shape,
    center_offset,
    crop_of_resized,
    filter_support,
    resized,
)
from pipeline.config.yaml import Fraction, Section

# Whose principal components of the RGB pixels colour noise steps along: those of AlexNet's code,
# or those of fb.resnet.torch (`pipeline.data.loading.lighting`).
ColorComponents = Literal["cuda-convnet", "fb"]

_AREA_TRIES = 10


class ColorJitter(Section):
    """Brightness, contrast and saturation by factors uniform in 1 ± strength, in random order.

    fb.resnet.torch has 0.4 for each; Howard 2013, which GoogLeNet §6 follows, has 0.5.
    """

    brightness: Fraction
    contrast: Fraction
    saturation: Fraction

    num_random: ClassVar[int] = 3

    def factors(self, numbers: Floats) -> NDArray[np.float32]:
        """Return the factors, float32 (n, 3), made of numbers (n, 3) uniform in [0, 1)."""
        strengths = np.array([self.brightness, self.contrast, self.saturation])
        return (1 + (2 * numbers - 1) * strengths).astype(np.float32)


@dataclass(frozen=True)
class Appearance:
    """What an augmentation does besides choosing boxes; the defaults do nothing.

    flip: mirror left and right, half of the views. color_noise: the strength of PCA lighting, along
    `color_components`. fill: the grey level (0–255) outside the image, or None where no box leaves
    its image.
    """

    flip: bool = False
    color_noise: float = 0.0
    color_components: ColorComponents = "cuda-convnet"
    color_jitter: ColorJitter | None = None
    fill: int | None = None


class _AugmentationKind(Section):
    """Base of all kinds, with defaults that a kind overrides."""

    @property
    def appearance(self) -> Appearance:
        return Appearance()

    @property
    def trained_sides(self) -> tuple[int, int] | None:
        """The smallest and the largest shorter side that is cropped, where images are resized."""
        return None


class NoAugmentation(_AugmentationKind):
    """Train on the very view that the evaluation protocol shows; it must show a single one."""

    kind: Literal["none"] = "none"


class RandomBoxes(_AugmentationKind):
    """Base of the kinds that draw one box an image, anew in each epoch.

    num_random: how many random numbers the box of an image takes.
    """

    num_random: ClassVar[int]

    @abstractmethod
    def boxes(self, size: int, sizes: Integers, numbers: Floats) -> Floats:
        """Return the boxes, float64 (n, 4): (y, x, height, width) in source pixels.

        size: the side of the network's input. sizes: int64 (n, 2), height and width of the images.
        numbers: float64 (n, num_random), uniform in [0, 1).
        """

    def support(
        self, boxes: Floats, shape: Shape, sizes: Integers, interpolation: Interpolation
    ) -> Integers:
        """Return the pixels that the resizing filter may read, int64 (n, 4), of boxes (n, 4).

        `shape` is what the boxes become. By default the filter reads around the box, as where an
        image is resized first and cropped then.
        """
        return filter_support(boxes, shape, sizes, interpolation)


class RandomAffine(RandomBoxes):
    """The whole image, zoomed and shifted a little around its centre; outside it is `fill` (0–255).

    `max_shift` is a fraction of the image's side; a scale of 1.1 draws the image 10 % larger.
    """

    kind: Literal["shift-scale"] = "shift-scale"
    max_shift: Fraction
    min_scale: PositiveFloat
    max_scale: PositiveFloat
    fill: Annotated[int, Field(ge=0, le=255)] = 0

    num_random: ClassVar[int] = 3

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_scale > self.max_scale:
            raise ValueError("min_scale must not be above max_scale")
        return self

    def boxes(self, size: int, sizes: Integers, numbers: Floats) -> Floats:
        scales = self.min_scale + numbers[:, 2:] * (self.max_scale - self.min_scale)
        sides = sizes / scales
        shifts = (2 * numbers[:, :2] - 1) * self.max_shift * sizes
        return np.concatenate([(sizes - sides) / 2 + shifts, sides], axis=1)

    def support(
        self, boxes: Floats, shape: Shape, sizes: Integers, interpolation: Interpolation
    ) -> Integers:
        # The fill takes part in the filter like any pixel, so that the support may leave the image.
        return filter_support(boxes, shape, interpolation=interpolation)

    @property
    def appearance(self) -> Appearance:
        return Appearance(fill=self.fill)


class AlexNetCrop(RandomBoxes):
    """Shorter side to `resize`, its centre square, a random crop and flip, PCA lighting.

    AlexNet §2, §4.1.
    """

    kind: Literal["alexnet"] = "alexnet"
    resize: PositiveInt = 256
    flip: bool = True
    color_noise: NonNegativeFloat = 0.1

    num_random: ClassVar[int] = 2

    def boxes(self, size: int, sizes: Integers, numbers: Floats) -> Floats:
        resized_sizes = resized(sizes, self.resize)
        offsets = _uniform_integers(numbers, self.resize - size + 1)
        square = center_offset(resized_sizes, self.resize)
        return crop_of_resized(square + offsets, size, resized_sizes, sizes)

    @property
    def appearance(self) -> Appearance:
        return Appearance(self.flip, self.color_noise)

    @property
    def trained_sides(self) -> tuple[int, int]:
        return self.resize, self.resize


class ScaleJitter(RandomBoxes):
    """Shorter side drawn from `[min_side, max_side]`, then a random crop and flip, PCA lighting.

    VGG §3.1 and ResNet §3.4.
    """

    kind: Literal["scale-jitter"] = "scale-jitter"
    min_side: PositiveInt
    max_side: PositiveInt
    flip: bool = True
    color_noise: NonNegativeFloat = 0.1

    num_random: ClassVar[int] = 3

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_side > self.max_side:
            raise ValueError("min_side must not be above max_side")
        return self

    def boxes(self, size: int, sizes: Integers, numbers: Floats) -> Floats:
        num_sides = self.max_side - self.min_side + 1
        resized_sizes = resized(sizes, self.min_side + _uniform_integers(numbers[:, 2:], num_sides))
        offsets = _uniform_integers(numbers[:, :2], resized_sizes - size + 1)
        return crop_of_resized(offsets, size, resized_sizes, sizes)

    @property
    def appearance(self) -> Appearance:
        return Appearance(self.flip, self.color_noise)

    @property
    def trained_sides(self) -> tuple[int, int]:
        return self.min_side, self.max_side


class RandomResizedCrop(RandomBoxes):
    """A crop of a random share of the area and aspect ratio, a flip, and colours (GoogLeNet §6).

    `color_components` says whose principal components `color_noise` steps along: those of AlexNet's
    code, or those of fb.resnet.torch, whose noise is less than half as strong.
    """

    kind: Literal["area"] = "area"
    min_area: Annotated[float, Field(gt=0.0, le=1.0)] = 0.08
    max_area: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    max_aspect_ratio: Annotated[float, Field(ge=1.0)] = 4 / 3
    flip: bool = True
    color_jitter: ColorJitter | None = None
    color_noise: NonNegativeFloat = 0.0
    color_components: ColorComponents = "cuda-convnet"

    num_random: ClassVar[int] = 2 + 2 * _AREA_TRIES

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_area > self.max_area:
            raise ValueError("min_area must not be above max_area")
        return self

    def boxes(self, size: int, sizes: Integers, numbers: Floats) -> Floats:
        """As torchvision's `RandomResizedCrop`, which draws the ratio's logarithm.

        Integer boxes, the first of ten tries that fits, else the largest centre crop of an allowed
        ratio.
        """
        shares, ratios = numbers[:, 2 : 2 + _AREA_TRIES], numbers[:, 2 + _AREA_TRIES :]
        area = sizes.prod(axis=1, keepdims=True) * (
            self.min_area + shares * (self.max_area - self.min_area)
        )
        limit = self.max_aspect_ratio
        ratio = np.exp((2 * ratios - 1) * np.log(limit))
        tried = np.rint(np.sqrt(np.stack([area / ratio, area * ratio], axis=2))).astype(np.int64)
        fits = ((tried > 0) & (tried <= sizes[:, None])).all(axis=2)
        first = fits.argmax(axis=1)
        sides = tried[np.arange(len(sizes)), first]
        starts = _uniform_integers(numbers[:, :2], sizes - sides + 1)

        none_fits = ~fits.any(axis=1, keepdims=True)
        widest = np.rint(sizes[:, ::-1] * limit).astype(np.int64)
        largest = np.minimum(sizes, widest)
        sides = np.where(none_fits, largest, sides)
        starts = np.where(none_fits, (sizes - largest) // 2, starts)
        return np.concatenate([starts, sides], axis=1).astype(np.float64)

    def support(
        self, boxes: Floats, shape: Shape, sizes: Integers, interpolation: Interpolation
    ) -> Integers:
        return boxes.astype(np.int64)  # cropped first and resized then: the filter stops at the box

    @property
    def appearance(self) -> Appearance:
        return Appearance(self.flip, self.color_noise, self.color_components, self.color_jitter)


Augmentation = Annotated[
    NoAugmentation | RandomAffine | AlexNetCrop | ScaleJitter | RandomResizedCrop,
    Field(discriminator="kind"),
]


class ProgressiveResizing(Section):
    """Train on smaller images first, as their boxes stretched to fewer pixels; test at full size.

    From `start_size` in the first epoch, evenly up to `input.size` in epoch `full_size_from`
    (counted from 0) and later; rounded down to multiples of `multiple_of`.
    """

    start_size: PositiveInt
    full_size_from: PositiveInt
    multiple_of: PositiveInt = 32


class MixupConfig(Section):
    """Mixup (Zhang et al. 2018), cutmix (Yun et al. 2019), random erasing (Zhong et al. 2020).

    An alpha of 0 is without; with both, each micro-batch takes one of them, with equal chances.
    """

    mixup_alpha: NonNegativeFloat = 0.0
    cutmix_alpha: NonNegativeFloat = 0.0
    erasing_probability: Fraction = 0.0


def _uniform_integers(numbers: Floats, count: Integers | int) -> Integers:
    """Return integers uniform in `0..count - 1` from numbers uniform in [0, 1)."""
    return (numbers * count).astype(np.int64)
