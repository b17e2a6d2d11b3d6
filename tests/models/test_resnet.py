"""The ResNets against Table 1 of the paper, He's initialisation and torchvision's batch norm."""

import math

import pytest
import torch
import torchvision
from torch import nn

from pipeline.models.profile import profile_model
from pipeline.models.resnet import ResNet, resnet50, resnet50_caffe, resnet50_v1_5
from pipeline.models.zoo import NETWORKS
from pipeline.pretrained.torchvision_weights import from_torchvision


def test_batch_norm_statistics_equal_torchvisions() -> None:
    """The momentum of its moving averages included."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=20)
    ours = from_torchvision("resnet18", theirs.state_dict()).build()
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        before = theirs.eval()(images)
        ours.train()(images), theirs.train()(images)
        got, expected = ours.eval()(images), theirs.eval()(images)
    assert not torch.allclose(before, expected, rtol=0.1)
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


def test_v1_5_differs_in_the_place_of_the_stride_only() -> None:
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
        layers = profile_model(network, (3, 224, 224)).layers
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


FAST = ["resnet18", "resnet50"]
FAMILY = [name for name in NETWORKS if name.startswith(("resnet", "plain"))]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in FAMILY],
)
def test_initial_weights_are_the_published_ones(name: str) -> None:
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


def test_the_released_stem_pools_without_padding_and_rounds_up() -> None:
    with torch.device("meta"):
        released, paper = resnet50_caffe(10), resnet50(10)
    assert released.state_dict().keys() - paper.state_dict().keys() == {"conv1.bias"}
    with torch.device("meta"):
        deeper = NETWORKS["resnet101_caffe"](10).state_dict().keys()
        assert deeper == NETWORKS["resnet101"](10).state_dict().keys()
    rows = torch.arange(112.0).reshape(1, 1, 112, 1).expand(-1, -1, -1, 3)
    # Windows start at 0, 2, 4, …; the last of 56 has two rows. The paper's start at -1, 1, 3, ….
    assert released.pool1(rows)[..., 0].flatten().tolist() == [*range(2, 112, 2), 111]
    assert paper.pool1(rows)[..., 0].flatten().tolist() == list(range(1, 112, 2))
