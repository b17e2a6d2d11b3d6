"""The layer table: counted by hand on a small network, and the network left as it was."""

import torch
from torch import nn

from pipeline.models.anatomy import Layer, dissect


class Twice(nn.Module):
    """A shared layer and a frozen batch norm in the middle of training."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(4)
        self.norm.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolution(self.convolution(x)))


def test_a_small_network_by_hand() -> None:
    layers = dissect(Twice(), (4, 5, 6)).layers
    multiply_adds = 4 * 5 * 6 * (2 * 3 * 3)
    assert layers == (
        Layer("convolution", "Conv2d", (4, 5, 6), 4 * 2 * 9 + 4, multiply_adds),
        Layer("convolution", "Conv2d", (4, 5, 6), 0, multiply_adds),
        Layer("norm", "BatchNorm2d", (4, 5, 6), 8, 0),
    )


def test_the_network_is_left_as_it_was() -> None:
    model = Twice()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    dissect(model, (4, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert model.convolution.training
    assert not model.norm.training
    assert not any(module._forward_hooks for module in model.modules())
