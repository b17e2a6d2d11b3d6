"""What every network of the zoo has in common: images in, logits out, and what it can take."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn


@dataclass(frozen=True)
class InputShape:
    """The square images a network takes: channels, and sides in pixels (`None`: no upper bound)."""

    num_channels: int
    min_size: int
    max_size: int | None = None

    def takes(self, num_channels: int, size: int) -> bool:
        fits = size >= self.min_size and (self.max_size is None or size <= self.max_size)
        return fits and num_channels == self.num_channels

    def __str__(self) -> str:
        if self.max_size == self.min_size:
            sides = f"{self.min_size}×{self.min_size}"
        else:
            sides = f"at least {self.min_size}×{self.min_size}"
        return f"{sides} {'gray' if self.num_channels == 1 else 'rgb'}"


class ImageClassifier(nn.Module):
    """A network that maps images, float (n, c, h, w), to logits, (n, num_classes)."""

    input_shape: ClassVar[InputShape]
