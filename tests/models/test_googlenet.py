"""GoogLeNet against Table 1, Caffe's replica, and torchvision's with 5×5 kernels."""

import math
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.googlenet import Inception as TorchvisionInception

from pipeline.models.batch_norm import BatchNorm2d
from pipeline.models.classifier import WithAuxiliary
from pipeline.models.googlenet import GoogLeNet, googlenet, googlenet_bn
from pipeline.models.profile import ModelProfile, profile_model
from pipeline.models.response_norm import ResponseNorm

# Parameters (weights + biases), multiply-adds and output of each module of Table 1.
MODULES = {
    "inception_3a": (163_328 + 368, 128_049_152, (256, 28, 28)),
    "inception_3b": (388_096 + 640, 304_267_264, (480, 28, 28)),
    "inception_4a": (375_552 + 624, 73_608_192, (512, 14, 14)),
    "inception_4b": (448_512 + 648, 87_908_352, (512, 14, 14)),
    "inception_4c": (509_440 + 664, 99_850_240, (512, 14, 14)),
    "inception_4d": (604_672 + 704, 118_515_712, (528, 14, 14)),
    "inception_4e": (867_328 + 1_024, 169_996_288, (832, 14, 14)),
    "inception_5a": (1_042_432 + 1_024, 51_079_168, (832, 7, 7)),
    "inception_5b": (1_442_816 + 1_264, 70_697_984, (1024, 7, 7)),
}


@pytest.fixture(scope="module")
def network() -> GoogLeNet:
    torch.manual_seed(0)
    return googlenet(1000)


@pytest.fixture(scope="module")
def profile() -> ModelProfile:
    with torch.device("meta"):
        return profile_model(googlenet(1000), (3, 224, 224))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", MODULES)
def test_modules_have_the_counts_of_table_1(
    network: GoogLeNet, profile: ModelProfile, name: str
) -> None:
    parameters, multiply_adds, output_shape = MODULES[name]
    assert count(network.get_submodule(name)) == parameters
    inside = [layer for layer in profile.layers if layer.name.startswith(f"{name}.")]
    assert sum(layer.multiply_adds for layer in inside) == multiply_adds
    branches = ("conv1x1", "conv3x3", "conv5x5", "pool_proj")
    ends = {layer.name: layer.output_shape for layer in inside}
    widths = [ends[f"{name}.{branch}.relu"] for branch in branches]
    assert (sum(width[0] for width in widths), *widths[0][1:]) == output_shape


def test_auxiliary_classifiers_have_the_known_counts(network: GoogLeNet) -> None:
    assert count(network.auxiliary1) == 3_188_840
    assert count(network.auxiliary2) == 3_190_888
    assert count(network) == 13_378_280


def test_stem_normalizes_where_caffe_does(profile: ModelProfile, network: GoogLeNet) -> None:
    stem = [layer for layer in profile.layers if not layer.name.startswith("inception")]
    assert [(layer.kind, layer.output_shape) for layer in stem] == [
        ("Conv2d", (64, 112, 112)), ("ReLU", (64, 112, 112)), ("MaxPool2d", (64, 56, 56)),
        ("ResponseNorm", (64, 56, 56)),
        ("Conv2d", (64, 56, 56)), ("ReLU", (64, 56, 56)),
        ("Conv2d", (192, 56, 56)), ("ReLU", (192, 56, 56)),
        ("ResponseNorm", (192, 56, 56)), ("MaxPool2d", (192, 28, 28)),
        ("MaxPool2d", (480, 14, 14)), ("MaxPool2d", (832, 7, 7)),
        ("AdaptiveAvgPool2d", (1024, 1, 1)), ("Flatten", (1024,)), ("Dropout", (1024,)),
        ("Linear", (1000,)),
    ]  # fmt: skip
    norms = [module for module in network.modules() if isinstance(module, ResponseNorm)]
    assert [(norm.size, norm.alpha, norm.k) for norm in norms] == [(5, 1e-4, 1.0)] * 2
    dropouts = [module.p for module in network.modules() if isinstance(module, nn.Dropout)]
    assert dropouts == [0.7, 0.7, 0.4]


def test_auxiliary_logits_are_returned_in_training_only() -> None:
    with torch.device("meta"):
        network = googlenet(7)
        images = torch.empty(2, 3, 224, 224)
        trained, tested = network.train()(images), network.eval()(images)
    assert isinstance(trained, WithAuxiliary)
    assert trained.logits.shape == tested.shape == (2, 7)
    assert [logits.shape for logits in trained.auxiliary] == [(2, 7), (2, 7)]


@pytest.mark.parametrize(
    ("number", "unseen"),
    [(0, ["4b", "4c", "4d", "4e", "5a", "5b"]), (1, ["4e", "5a", "5b"])],
)
def test_auxiliary_classifiers_are_on_4a_and_4d(number: int, unseen: list[str]) -> None:
    with torch.device("meta"):
        network = googlenet(7).train()
        network(torch.empty(2, 3, 224, 224)).auxiliary[number].sum().backward()
    without = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is None}
    other = f"auxiliary{2 - number}"
    assert without == {*(f"inception_{place}" for place in unseen), other, "fc"}


@pytest.mark.parametrize("constructor", [googlenet, googlenet_bn])
def test_initial_weights_are_caffes(constructor: Callable[[int], GoogLeNet]) -> None:
    torch.manual_seed(0)
    for name, layer in constructor(1000).named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = math.sqrt(3 / layer.weight[0].numel())
            size = layer.weight.numel()
            std = bound / math.sqrt(3)
            assert layer.weight.abs().max() <= bound, name
            assert abs(layer.weight.mean().item()) < 5 * std / math.sqrt(size), name
            # A uniform variable's fourth moment is 1.8 squared variances.
            close = pytest.approx(std, rel=5 * math.sqrt(0.2 / size))
            assert layer.weight.std().item() == close, name
            assert (layer.bias is None) == (constructor is googlenet_bn and "conv" in name), name
            if layer.bias is None:
                continue
            gives_logits = name in ("fc", "auxiliary1.fc2", "auxiliary2.fc2")
            assert (layer.bias == (0.0 if gives_logits else 0.2)).all(), name


def test_batch_norm_replaces_response_norm_and_biases() -> None:
    with torch.device("meta"):
        network = googlenet_bn(1000)
    kinds = [type(module) for module in network.modules()]
    assert ResponseNorm not in kinds
    assert kinds.count(BatchNorm2d) == kinds.count(nn.Conv2d) == 59
    assert all(m.bias is None for m in network.modules() if isinstance(m, nn.Conv2d))


def test_logits_equal_torchvisions_with_5x5_kernels() -> None:
    """torchvision's network has 3×3 for the paper's 5×5, 2×2 in one pool, another epsilon."""
    torch.manual_seed(0)
    theirs = torchvision.models.GoogLeNet(num_classes=20, init_weights=False)
    theirs.maxpool4 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    for module in theirs.modules():
        if isinstance(module, TorchvisionInception):
            old = module.branch3[1].conv
            module.branch3[1].conv = nn.Conv2d(
                old.in_channels, old.out_channels, 5, padding=2, bias=False
            )
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    ours = googlenet_bn(20)
    values = theirs.state_dict().values()
    ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)))
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        got, expected = ours.eval()(images), theirs.eval()(images)
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()
