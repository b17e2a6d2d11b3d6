"""Other projects' batch norm in the terms of the zoo's: without a bias before, with its own ε."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BatchNormValues:
    """γ (x + bias − mean) / √(variance + epsilon) + β for each channel, all float32 (c,)."""

    gamma: Tensor
    beta: Tensor
    mean: Tensor
    variance: Tensor
    epsilon: float

    def state(self, own_epsilon: float, bias: Tensor | None = None) -> dict[str, Tensor]:
        """Return the state of a layer with `own_epsilon` that gives exactly the same.

        bias: of the convolution before it, which has none in the zoo; it moves the mean.
        """
        return {
            "weight": self.gamma,
            "bias": self.beta,
            "running_mean": self.mean if bias is None else self.mean - bias,
            "running_var": self.variance + (self.epsilon - own_epsilon),
        }


def identity(bias: Tensor, own_epsilon: float) -> dict[str, Tensor]:
    """Return the state of a layer that only adds `bias`: its convolution holds all the rest."""
    one, zero = torch.ones_like(bias), torch.zeros_like(bias)
    return BatchNormValues(one, bias, zero, one, 0.0).state(own_epsilon)
