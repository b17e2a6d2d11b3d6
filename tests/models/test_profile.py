"""The layer table: counted by hand on small networks, and the network left as it was."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline.models.profile import LayerProfile, profile_model
from pipeline.models.receptive_field import Window
from pipeline.models.zoo import NETWORKS


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
    profile = profile_model(Twice(), (4, 5, 6))
    multiply_adds = 4 * 5 * 6 * (2 * 3 * 3)
    windows = (Window(kernel=3, padding=(1, 1)),) * 2
    first = LayerProfile(
        name="convolution",
        kind="Conv2d",
        output_shape=(4, 5, 6),
        parameters=4 * 2 * 9 + 4,
        multiply_adds=multiply_adds,
        windows=windows,
        groups=2,
        receptive_field=(3, 3),
        jump=(1, 1),
        first_pixel=(-1, -1),
    )
    assert profile.layers == (
        first,
        replace(first, parameters=0, receptive_field=(5, 5), first_pixel=(-2, -2)),
        LayerProfile("norm", "BatchNorm2d", (4, 5, 6), 8, 0, (), 1, (5, 5), (1, 1), (-2, -2)),
    )
    assert (profile.depth, profile.receptive_field) == (2, (5, 5))


class Branches(nn.Module):
    """Three ways of different lengths, joined by a concatenation and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 1)
        self.near = nn.Conv2d(2, 2, 3, padding=1)
        self.far = nn.Sequential(
            nn.Conv2d(2, 1, 1), nn.Conv2d(1, 2, 3, padding=4, dilation=4), nn.Conv2d(2, 2, 1)
        )
        self.after = nn.Conv2d(4, 2, 3, stride=2)
        self.pool = nn.AvgPool2d(3, stride=2)
        self.head = nn.Conv2d(2, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = torch.cat([self.far(x), self.near(x)], dim=1)
        return self.head(self.after(y) + self.pool(x))


def test_branches_are_followed_by_the_graph_and_not_by_the_order_of_calls() -> None:
    profile = profile_model(Branches(), (1, 17, 17))
    fields = {layer.name: layer.receptive_field[0] for layer in profile.layers}
    assert fields == {
        "stem": 1, "far.0": 1, "far.1": 9, "far.2": 9, "near": 3, "after": 11, "pool": 3,
        "head": 11,
    }  # fmt: skip
    assert profile.depth == len(["stem", "far.0", "far.1", "far.2", "after", "head"])
    assert profile.layers[-1].jump == (2, 2)


class Function(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function
        self.convolution = nn.Conv2d(1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.convolution(x))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: nn.functional.max_pool2d(x, 2),
        lambda x: x[:, :, ::2, ::2],
        lambda x: x.relu(),
        nn.Upsample(scale_factor=2),
    ],
    ids=["pooling", "slice", "method", "layer"],
)
def test_what_an_unknown_part_sees_is_refused_and_not_guessed(
    function: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    with pytest.raises(NotImplementedError, match="known"):
        profile_model(Function(function), (1, 8, 8))


@pytest.mark.parametrize(
    ("name", "depth"),
    [("alexnet", 8), ("vgg19", 19), ("googlenet", 22), ("inception_v3", 48), ("plain34", 34),
     ("resnet34_option_c", 34), ("resnet152", 152), ("densenet201", 201), ("lenet5_modern", 5)],
)  # fmt: skip
def test_depths_are_the_papers(name: str, depth: int) -> None:
    with torch.device("meta"):
        network = NETWORKS[name](10)
        assert profile_model(network, network.input_shape.published).depth == depth


def test_the_network_is_left_as_it_was() -> None:
    model = Twice()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    profile_model(model, (4, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert model.convolution.training
    assert not model.norm.training
    assert not any(module._forward_hooks for module in model.modules())
