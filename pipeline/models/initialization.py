"""Weight initializations that more than one family uses."""

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Weighted = nn.Conv1d | nn.Conv2d | nn.Linear


@runtime_checkable
class HasFans(Protocol):
    """A layer whose units differ in their number of inputs."""

    @property
    def fans(self) -> tuple[Tensor, Tensor]:
        """Fan-in and fan-out of each weight, in shapes that broadcast to the weights'."""
        ...


def fill_normal(layer: Weighted, std: float, bias: float = 0.0) -> None:
    """Draw the weights from N(0, std²) and set the biases, if there are any, to `bias`."""
    if layer.weight.is_meta:
        return  # nothing to draw, for which torch would import its compiler
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.constant_(layer.bias, bias)


def he_std(layer: Weighted) -> float:
    """√(2 / fan-in): keeps the variance through layers of ReLU (He et al. 2015, §2.2, forward)."""
    return math.sqrt(2 / layer.weight[0].numel())


def fill_glorot(model: nn.Module) -> None:
    """Draw convolutions and linear layers from U(±√(6 / (fan-in + fan-out))), biases 0.

    Glorot & Bengio 2010, (16). Other layers keep their published initialization. VGG's authors note
    that networks of any depth train from it, without a shallower one first.
    """
    for layer in _weighted(model):
        fan_in, fan_out = _fans(layer)
        _fill_uniform(layer, (6 / (fan_in + fan_out)) ** 0.5)


def fill_lecun(model: nn.Module) -> None:
    """Draw convolutions and linear layers from U(±√(3 / fan-in)), biases 0.

    LeCun et al., Efficient BackProp, 1998: the deviation is 1 / √fan-in (§4.6), with which sums of
    independent inputs keep their size. Other layers keep their published initialization.
    """
    for layer in _weighted(model):
        fan_in, _ = _fans(layer)
        _fill_uniform(layer, (3 / fan_in) ** 0.5)


def _weighted(model: nn.Module) -> list[Weighted]:
    return [layer for layer in model.modules() if isinstance(layer, Weighted)]


def _fans(layer: Weighted) -> tuple[Tensor, Tensor]:
    if isinstance(layer, HasFans):
        return layer.fans
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(layer.weight)
    return torch.tensor(fan_in), torch.tensor(fan_out)


@torch.no_grad()
def _fill_uniform(layer: Weighted, bound: Tensor) -> None:
    layer.weight.uniform_(-1, 1).mul_(bound.to(layer.weight))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
