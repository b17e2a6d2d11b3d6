"""Recipes of one family train alike, but for what is listed here.

Every recipe is a whole file, so that it can be read beside its paper. What a family has in common
is therefore written down more than once; these tests hold the copies together.
"""

from dataclasses import dataclass

import pytest

from pipeline.config.recipe import load_recipe
from pipeline.config.yaml import flatten

# What every member has of its own: which network it is, and what is published of that one.
OWN = {"network.name", "expect.top1_error", "expect.top5_error", "expect.protocol", "expect.source"}


@dataclass(frozen=True)
class Family:
    """Recipes that differ in `OWN` and in the keys of `differ` only."""

    recipes: tuple[str, ...]
    differ: frozenset[str] = frozenset()


FAMILIES = {
    "residual networks of He et al. 2016 and their plain counterparts": Family(
        (
            *("plain18", "plain34", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
            *("resnet18_option_a", "resnet34_option_a", "resnet34_option_c"),
        )
    ),
    "ResNet v1.5": Family(("resnet50_v1_5", "resnet101_v1_5", "resnet152_v1_5")),
    "DenseNet": Family(("densenet121", "densenet161", "densenet169", "densenet201", "densenet264")),
    "VGG of fixed scale": Family(
        ("vgg_a", "vgg_a_lrn", "vgg_b"), frozenset({"network.initialization"})
    ),
    "VGG of jittered scale": Family(("vgg_c", "vgg16", "vgg19")),
    "VGG of both": Family(
        ("vgg_a", "vgg_a_lrn", "vgg_b", "vgg_c", "vgg16", "vgg19"),
        frozenset({"network.initialization", "augmentation.max_side"}),
    ),
    "VGG with batch norm": Family(("vgg_a_bn", "vgg_b_bn", "vgg16_bn", "vgg19_bn")),
    "AlexNet of the paper": Family(("alexnet", "alexnet_one_tower")),
    "AlexNet of the paper and of its code": Family(
        ("alexnet", "alexnet_code"), frozenset({"optimizer.bias_learning_rate_factor"})
    ),
    "modern residual networks": Family(
        ("resnet50_modern", "resnet152_modern", "densenet121_modern")
    ),
    "MNIST-1D": Family(("mnist1d_conv", "mnist1d_dense")),
}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_family_trains_alike_but_for_the_listed_keys(family: Family) -> None:
    first, *others = (flatten(load_recipe(name)) for name in family.recipes)
    different = {
        key
        for other in others
        for key in first.keys() | other.keys()
        if first.get(key) != other.get(key)
    }
    assert different <= OWN | family.differ
    assert family.differ <= different, "listed as different, but the same in all"
