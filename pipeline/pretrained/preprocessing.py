"""What a network from elsewhere sees, in the terms that its authors state it in."""

from typing import Literal, Self

from pydantic import PositiveFloat, PositiveInt, model_validator

from pipeline.config.boxes import Interpolation
from pipeline.config.protocol import CenterCrop
from pipeline.config.recipe import InputConfig
from pipeline.config.yaml import Section
from pipeline.runtime.errors import UserError


class Preprocessing(Section):
    """The preprocessing that an external network expects; the defaults are torchvision's.

    The shorter side is resized to `resize` (with `squash`, both sides) by `interpolation`, always
    antialiased, then the centre square of `crop` is cut; pixels from 0 to `value_range`, in the
    order `colors`, become `(pixel - mean) / std`. Mean and std are in that range and that order.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFloat, ...] = (0.229, 0.224, 0.225)
    colors: Literal["rgb", "bgr", "gray"] = "rgb"
    value_range: Literal[1, 255] = 1
    resize: PositiveInt = 256
    crop: PositiveInt = 224
    squash: bool = False
    interpolation: Interpolation = "bilinear"

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> Self:
        channels = 1 if self.colors == "gray" else 3
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(f"mean and std need {channels} values each for {self.colors}")
        return self

    @property
    def input(self) -> InputConfig:
        """The same as a recipe's input: red first, in grey levels of 0 to 255."""
        scale, order = 255 / self.value_range, -1 if self.colors == "bgr" else 1
        return InputConfig(
            size=self.crop,
            color="gray" if self.colors == "gray" else "rgb",
            mean=tuple(scale * value for value in self.mean[::order]),
            std=tuple(scale * value for value in self.std[::order]),
            interpolation=self.interpolation,
        )

    @property
    def words(self) -> str:
        """A sentence of it for the user."""
        mean, std = (" ".join(f"{value:g}" for value in each) for each in (self.mean, self.std))
        scaled = "" if set(self.std) == {1.0} else f", divided by {std}"
        resized = "both sides" if self.squash else "the shorter side"
        return (
            f"It sees {self.colors.upper()} of 0 to {self.value_range} less {mean}{scaled}; the "
            f"central {self.crop} pixels, {resized} resized to {self.resize} by a "
            f"{self.interpolation} filter."
        )

    @property
    def protocol(self) -> CenterCrop:
        if self.resize < self.crop:
            raise UserError(f"preprocessing: resize ({self.resize}) is smaller than crop")
        return CenterCrop(resize=self.resize, squash=self.squash)
