"""How weights start, where more than one family starts them so."""

import math

from torch import nn

Weighted = nn.Conv1d | nn.Conv2d | nn.Linear


def fill_normal(layer: Weighted, std: float, bias: float = 0.0) -> None:
    """Draw the weights from N(0, std²) and set every bias, where there are biases, to `bias`."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.constant_(layer.bias, bias)


def he_std(layer: Weighted) -> float:
    """√(2 / fan-in): keeps the variance through layers of ReLU (He et al. 2015, §2.2, forward)."""
    return math.sqrt(2 / layer.weight[0].numel())


def fill_glorot(model: nn.Module) -> None:
    """Start every layer from U(±√(6 / (fan-in + fan-out))), biases 0 (Glorot & Bengio 2010, (16)).

    VGG's authors note that networks of any depth train from it, without a shallower one first.
    """
    for layer in model.modules():
        if isinstance(layer, Weighted):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
