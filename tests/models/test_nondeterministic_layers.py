"""Which layers have no deterministic implementation on GPUs."""

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.config.recipe import read_recipe
from pipeline.models.nondeterministic_layers import nondeterministic_layers
from pipeline.planning.workload import meta_model


def test_no_recipes_network_has_one() -> None:
    recipes = (Path(__file__).parents[2] / "configs" / "recipes").glob("*.yaml")
    found = [nondeterministic_layers(meta_model(read_recipe(path))) for path in recipes]
    assert len(found) > 40
    assert not any(found)


def test_average_pooling_to_one_position_is_a_mean() -> None:
    """Which is why it counts as deterministic, while to other sizes it isn't."""
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    pooled = nn.AdaptiveAvgPool2d(1)(images)
    assert pooled.grad_fn is not None
    assert pooled.grad_fn.name() == "MeanBackward1"


@pytest.mark.parametrize(
    ("layer", "is_one"),
    [
        (nn.AdaptiveAvgPool2d(7), True),
        (nn.AdaptiveAvgPool2d((1, 1)), False),
        (nn.Upsample(scale_factor=2, mode="bilinear"), True),
        (nn.Upsample(scale_factor=2), False),
        (nn.ReflectionPad2d(1), True),
        (nn.MaxUnpool2d(2), True),
        (nn.MaxPool2d(2), False),
    ],
)
def test_layers_are_found_by_name(layer: nn.Module, is_one: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(layer))
    name = f"1.0 ({type(layer).__name__})"
    assert nondeterministic_layers(network) == ([name] if is_one else [])
