"""VGG against Table 1: counts, initial weights, initialization of deeper networks from A."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from pipeline.models.profile import profile_model
from pipeline.models.response_norm import ResponseNorm
from pipeline.models.vgg import (
    VGG,
    vgg16,
    vgg16_bn,
    vgg19,
    vgg19_bn,
    vgg_a,
    vgg_a_bn,
    vgg_a_lrn,
    vgg_b,
    vgg_b_bn,
    vgg_c,
)
from pipeline.runtime.errors import UserError

NUM_CLASSES = 20
FROM_A = ["conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8"]


@pytest.fixture(scope="module")
def trained_a() -> VGG:
    torch.manual_seed(0)
    return vgg_a(NUM_CLASSES).eval()


def weighted(network: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    modules = network.named_modules()
    return {name: layer for name, layer in modules if isinstance(layer, nn.Conv2d | nn.Linear)}


@pytest.mark.parametrize(
    ("constructor", "num_layers"),
    [(vgg_a, 11), (vgg_a_lrn, 11), (vgg_b, 13), (vgg_c, 16), (vgg16, 16), (vgg19, 19)],
)
def test_layers_are_those_of_table_1(constructor: Callable[[int], VGG], num_layers: int) -> None:
    with torch.device("meta"):
        layers = profile_model(constructor(1000), (3, 224, 224)).layers
    assert sum(layer.kind in ("Conv2d", "Linear") for layer in layers) == num_layers
    assert [layer.output_shape for layer in layers if layer.kind == "MaxPool2d"] == [
        (64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (512, 7, 7)
    ]  # fmt: skip


def test_vgg16_has_the_known_parameters_layer_by_layer() -> None:
    with torch.device("meta"):
        layers = profile_model(vgg16(1000), (3, 224, 224)).layers
    assert {layer.name: layer.parameters for layer in layers if layer.parameters} == {
        "conv1_1": 1_792, "conv1_2": 36_928,
        "conv2_1": 73_856, "conv2_2": 147_584,
        "conv3_1": 295_168, "conv3_2": 590_080, "conv3_3": 590_080,
        "conv4_1": 1_180_160, "conv4_2": 2_359_808, "conv4_3": 2_359_808,
        "conv5_1": 2_359_808, "conv5_2": 2_359_808, "conv5_3": 2_359_808,
        "fc6": 102_764_544, "fc7": 16_781_312, "fc8": 4_097_000,
    }  # fmt: skip


def test_c_has_1x1_kernels_in_the_third_layers_only() -> None:
    with torch.device("meta"):
        layers = weighted(vgg_c(1000))
    convolutions = {name: layer for name, layer in layers.items() if isinstance(layer, nn.Conv2d)}
    small = [name for name, layer in convolutions.items() if layer.kernel_size == (1, 1)]
    assert small == ["conv3_3", "conv4_3", "conv5_3"]
    assert all(c.kernel_size == (3, 3) for name, c in convolutions.items() if name not in small)


def test_a_lrn_normalizes_as_alexnet_after_the_first_layer() -> None:
    with torch.device("meta"):
        network = vgg_a_lrn(1000)
    assert list(dict(network.named_children()))[:4] == ["conv1_1", "relu1_1", "norm1", "pool1"]
    norms = [module for module in network.modules() if isinstance(module, ResponseNorm)]
    assert [(norm.size, norm.alpha, norm.k) for norm in norms] == [(5, 1e-4, 2.0)]


def test_dropout_is_on_the_first_two_connected_layers() -> None:
    with torch.device("meta"):
        names = list(dict(vgg16(1000).named_children()))
    assert names[names.index("pool5") + 1 :] == [
        "flatten", "fc6", "relu6", "dropout6", "fc7", "relu7", "dropout7", "fc8"
    ]  # fmt: skip


def assert_normal(layer: nn.Conv2d | nn.Linear, std: float) -> None:
    count = layer.weight.numel()
    assert abs(layer.weight.mean().item()) < 5 * std / math.sqrt(count)
    # The relative standard error of a standard deviation is 1 / √(2 n).
    assert layer.weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * count))
    assert layer.bias is not None
    assert not layer.bias.any()


def test_initial_weights_are_the_documented_ones(trained_a: VGG) -> None:
    for layer in weighted(trained_a).values():
        assert_normal(layer, std=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("constructor", [vgg_a_lrn, vgg_b, vgg_c, vgg16, vgg19])
def test_initial_weights_of_deeper_networks_are_the_documented_ones(
    constructor: Callable[[int], VGG],
) -> None:
    torch.manual_seed(0)
    for layer in weighted(constructor(NUM_CLASSES)).values():
        assert_normal(layer, std=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("constructor", [vgg_a_bn, vgg_b_bn, vgg16_bn, vgg19_bn])
def test_initial_weights_with_batch_norm_are_torchvisions(
    constructor: Callable[[int], VGG],
) -> None:
    torch.manual_seed(0)
    for layer in weighted(constructor(NUM_CLASSES)).values():
        fan_out = layer.weight[:, 0].numel()
        is_convolution = isinstance(layer, nn.Conv2d)
        assert_normal(layer, std=math.sqrt(2 / fan_out) if is_convolution else 0.01)


@pytest.mark.parametrize("deeper", [vgg_c, vgg19])
def test_a_deeper_network_starts_from_a(trained_a: VGG, deeper: Callable[[int], VGG]) -> None:
    with torch.device("meta"):
        network = deeper(NUM_CLASSES)
    network.to_empty(device="cpu")
    for parameter in network.parameters():
        nn.init.constant_(parameter, 7.0)
    network.start_from(trained_a.state_dict())
    given = weighted(trained_a)
    for name, layer in weighted(network).items():
        assert layer.bias is not None
        if name in FROM_A:
            assert torch.equal(layer.weight, given[name].weight), name
            assert torch.equal(layer.bias, given[name].bias), name
        else:
            assert (layer.weight == 7).all(), name
            assert (layer.bias == 7).all(), name


def test_batch_norm_is_copied_with_its_convolution() -> None:
    with torch.device("meta"):
        a, network = vgg_a_bn(NUM_CLASSES), vgg16_bn(NUM_CLASSES)
    a.to_empty(device="cpu")
    network.to_empty(device="cpu")
    for name in ("bn3_2", "bn3_3", "bn4_1"):
        nn.init.constant_(network.get_submodule(name).running_mean, 7.0)
    nn.init.constant_(a.bn3_2.running_mean, 3.0)
    network.start_from(a.state_dict())
    means = [network.get_submodule(name).running_mean for name in ("bn3_2", "bn3_3", "bn4_1")]
    assert [mean.unique().item() for mean in means] == [3.0, 7.0, 7.0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: vgg_a(10), r"fc8\.weight is \(10, 4096\), in the network to train \(1000, 4096\)"),
        (lambda: vgg_a(1000, 1), r"conv1_1\.weight is \(64, 1, 3, 3\)"),
        (lambda: vgg_a_bn(1000), r"unlike a trained vgg_a, this holds bn1_1\.bias"),
        (lambda: vgg_b(1000), r"this holds conv1_2\.bias"),
        (lambda: nn.Sequential(), r"this lacks conv1_1\.bias"),
    ],
)
def test_weights_other_than_those_of_a_are_refused(
    given: Callable[[], nn.Module], message: str
) -> None:
    with torch.device("meta"):
        network, weights = vgg16(1000), given().state_dict()
        with pytest.raises(UserError, match=message):
            network.start_from(weights)
