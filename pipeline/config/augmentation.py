"""What a recipe says of the views that train: where crops lie, their colours, how images mix."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pipeline.config.yaml import Fraction, Section


class NoAugmentation(Section):
    """Train on the very view that the evaluation protocol shows; it must show a single one."""

    kind: Literal["none"] = "none"


class RandomAffine(Section):
    """The whole image, zoomed and shifted a little; outside it is `fill` (0–255).

    `max_shift` is a fraction of the image's side; a scale of 1.1 draws the image 10 % larger.
    """

    kind: Literal["shift-scale"] = "shift-scale"
    max_shift: Fraction
    min_scale: PositiveFloat
    max_scale: PositiveFloat
    fill: Annotated[int, Field(ge=0, le=255)] = 0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_scale > self.max_scale:
            raise ValueError("min_scale must not be above max_scale")
        return self


class AlexNetCrop(Section):
    """Shorter side to `resize`, its centre square, a random crop and flip, RGB noise (§4.1)."""

    kind: Literal["alexnet"] = "alexnet"
    resize: PositiveInt = 256
    flip: bool = True
    color_noise: Annotated[float, Field(ge=0.0)] = 0.1


class ScaleJitter(Section):
    """Shorter side drawn from `[min_side, max_side]`, then a random crop and flip, RGB noise.

    VGG §3.1 and ResNet §3.4.
    """

    kind: Literal["scale-jitter"] = "scale-jitter"
    min_side: PositiveInt
    max_side: PositiveInt
    flip: bool = True
    color_noise: Annotated[float, Field(ge=0.0)] = 0.1

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_side > self.max_side:
            raise ValueError("min_side must not be above max_side")
        return self


class ColorJitter(Section):
    """Brightness, contrast and saturation by factors uniform in 1 ± strength, in random order.

    fb.resnet.torch has 0.4 for each; Howard 2013, which GoogLeNet §6 follows, has 0.5.
    """

    brightness: Fraction
    contrast: Fraction
    saturation: Fraction


class RandomResizedCrop(Section):
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
    color_noise: Annotated[float, Field(ge=0.0)] = 0.0
    color_components: Literal["cuda-convnet", "fb"] = "cuda-convnet"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_area > self.max_area:
            raise ValueError("min_area must not be above max_area")
        return self


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

    mixup_alpha: Annotated[float, Field(ge=0.0)] = 0.0
    cutmix_alpha: Annotated[float, Field(ge=0.0)] = 0.0
    erasing_probability: Fraction = 0.0
