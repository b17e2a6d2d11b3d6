"""The ResNets against torchvision, Table 1 of the paper and He's initialisation."""

import math
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from pipeline.models.anatomy import dissect
from pipeline.models.resnet import ResNet, resnet18, resnet50, resnet50_v1_5
from pipeline.models.zoo import NETWORKS


def stir(model: nn.Module) -> None:
    """Make batch norm more than the identity, so that a misplaced one shows."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


def with_weights_of(theirs: nn.Module, ours: nn.Module) -> nn.Module:
    """Both list their parts in the same order, under other names."""
    values = theirs.state_dict().values()
    ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)))
    return ours


@pytest.mark.parametrize(
    ("constructor", "reference"),
    [(resnet18, torchvision.models.resnet18), (resnet50_v1_5, torchvision.models.resnet50)],
)
def test_logits_equal_torchvisions(
    constructor: Callable[[int], ResNet], reference: Callable[..., nn.Module]
) -> None:
    torch.manual_seed(0)
    theirs = reference(num_classes=20)
    stir(theirs)
    ours = with_weights_of(theirs, constructor(20))
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        got, expected = ours.eval()(images), theirs.eval()(images)
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()
    # Batch norm in training mode too: the momentum of its moving averages included.
    with torch.no_grad():
        ours.train()(images), theirs.train()(images)
        got, expected = ours.eval()(images), theirs.eval()(images)
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


def test_the_place_of_the_stride_is_all_that_sets_v1_5_apart() -> None:
    def strides(network: ResNet) -> list[tuple[str, tuple[int, ...]]]:
        return [
            (name, module.stride)
            for name, module in network.named_modules()
            if isinstance(module, nn.Conv2d) and max(module.stride) > 1
        ]

    with torch.device("meta"):
        v1, v1_5 = resnet50(1000), resnet50_v1_5(1000)
    stages = ("conv3_x", "conv4_x", "conv5_x")
    for network, place in ((v1, "conv1"), (v1_5, "conv2")):
        expected = [("conv1", (2, 2))]
        for stage in stages:
            expected += [(f"{stage}.0.{place}", (2, 2)), (f"{stage}.0.shortcut.0", (2, 2))]
        assert strides(network) == expected
    assert [p.shape for p in v1.parameters()] == [p.shape for p in v1_5.parameters()]


def test_stages_have_the_sizes_of_table_1() -> None:
    sizes: list[tuple[str, tuple[int, ...], int]] = []
    with torch.device("meta"):
        network = resnet50(1000)
        layers = dissect(network, (3, 224, 224)).layers
    for stage in ("conv2_x", "conv3_x", "conv4_x", "conv5_x"):
        inside = [layer for layer in layers if layer.name.startswith(f"{stage}.")]
        parameters = sum(layer.parameters for layer in inside)
        sizes.append((stage, inside[-1].output_shape, parameters))
    assert sizes == [
        ("conv2_x", (256, 56, 56), 215_808),
        ("conv3_x", (512, 28, 28), 1_219_584),
        ("conv4_x", (1024, 14, 14), 7_098_368),
        ("conv5_x", (2048, 7, 7), 14_964_736),
    ]


IN_MOMENTS = ["resnet18", "resnet50"]
FAMILY = [name for name in NETWORKS if name.startswith(("resnet", "plain"))]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in IN_MOMENTS else pytest.mark.slow) for name in FAMILY],
)
def test_weights_start_as_published(name: str) -> None:
    torch.manual_seed(0)
    for layer, module in NETWORKS[name](1000).named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            std = 0.01 if layer == "fc" else math.sqrt(2 / module.weight[0].numel())
            count = module.weight.numel()
            assert abs(module.weight.mean().item()) < 5 * std / math.sqrt(count), layer
            assert module.weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * count))
            assert module.bias is None or not module.bias.any()
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()
