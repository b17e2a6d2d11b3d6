"""Dropout whose units are drawn for each image, from its own random number."""

import torch
from torch import Tensor, nn

# The increment and the multipliers of SplitMix64, as signed integers.
_INCREMENT = 0x9E3779B97F4A7C15 - 2**64
_FIRST_MULTIPLIER = 0xBF58476D1CE4E5B9 - 2**64
_SECOND_MULTIPLIER = 0x94D049BB133111EB - 2**64


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, whose dropped units depend on nothing but the image and the layer.

    Without `image_keys` it is torch's, whose units depend on the batch, and on a GPU on its model.
    With them, int64 (at least n,), a random number of each of the n images of a call, the units
    that an image drops in training are a function of its key, `layer_number` and the unit: the same
    on every device, however many images are computed at once.
    """

    image_keys: Tensor | None = None
    layer_number: int = 0

    def forward(self, values: Tensor) -> Tensor:
        if self.image_keys is None or not self.training or self.p == 0:
            return super().forward(values)
        numbers = random_int64(self.image_keys[: len(values)], self.layer_number, values[0].numel())
        # A share p of all int64, from -2⁶³, lies below the threshold.
        threshold = min(round(self.p * 2**64), 2**64 - 1) - 2**63
        is_kept = (numbers >= threshold).view_as(values)
        return torch.where(is_kept, values / (1 - self.p), 0.0)


def random_int64(keys: Tensor, stream: int, count: int) -> Tensor:
    """Return `count` random numbers for each of `keys` (n,), int64 (n, count), on their device.

    Those of a key are a part of one sequence of SplitMix64 (Steele, Lea, Flood, "Fast Splittable
    Pseudorandom Number Generators", OOPSLA 2014, Figure 17) that starts at the key; another
    `stream`, below 2³², is another part.
    """
    places = torch.arange(1, count + 1, device=keys.device) + (stream << 32)
    z = keys[:, None] + places * _INCREMENT  # all arithmetic is modulo 2⁶⁴
    z = (z ^ _shifted_right(z, 30)) * _FIRST_MULTIPLIER
    z = (z ^ _shifted_right(z, 27)) * _SECOND_MULTIPLIER
    return z ^ _shifted_right(z, 31)


def _shifted_right(z: Tensor, bits: int) -> Tensor:
    """Shift zeros in: on signed integers, `>>` shifts in the sign."""
    return (z >> bits) & (2 ** (64 - bits) - 1)
