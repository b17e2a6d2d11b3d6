"""How weights start, where more than one family starts them so."""

import math

from torch import nn


def fill_normal(layer: nn.Conv2d | nn.Linear, std: float, bias: float = 0.0) -> None:
    """Draw the weights from N(0, std²) and set every bias, where there are biases, to `bias`."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.constant_(layer.bias, bias)


def he_std(layer: nn.Conv2d | nn.Linear) -> float:
    """√(2 / fan-in): keeps the variance through layers of ReLU (He et al. 2015, §2.2, forward)."""
    return math.sqrt(2 / layer.weight[0].numel())
