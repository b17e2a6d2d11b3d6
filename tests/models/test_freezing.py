"""Frozen layers: which they are, and that training mode doesn't reach their batch norm."""

import copy

import pytest
import torch
from torch import nn

from pipeline.models.batch_norm import BatchNorm2d
from pipeline.models.classifier import ImageClassifier
from pipeline.models.densenet import DenseNet
from pipeline.models.freezing import freeze_until
from pipeline.models.zoo import NETWORKS
from pipeline.runtime.errors import UserError


def frozen(network: str, name: str) -> tuple[ImageClassifier, tuple[str, ...]]:
    with torch.device("meta"):
        model = NETWORKS[network](num_classes=3)
    return model, freeze_until(model, name)


@pytest.mark.parametrize(
    ("network", "name", "layers"),
    [
        ("resnet18", "bn1", ("conv1", "bn1")),
        ("resnet18", "conv2_x", ("conv1", "bn1", "conv2_x")),
        ("resnet18", "conv2_x.0.conv2", ("conv1", "bn1", "conv2_x.0.conv1", "conv2_x.0.bn1",
                                         "conv2_x.0.conv2")),
        ("lenet5_modern", "layers", ("layers.0", "layers.3", "layers.6", "layers.9")),
        ("alexnet", "fc7", ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")),
        ("googlenet", "conv2", ("conv1", "conv2_reduce", "conv2")),
    ],
)  # fmt: skip
def test_all_layers_up_to_a_name_are_frozen(
    network: str, name: str, layers: tuple[str, ...]
) -> None:
    model, found = frozen(network, name)
    assert found == layers
    expected = {
        parameter for layer in layers for parameter in model.get_submodule(layer).parameters()
    }
    assert expected == {value for value in model.parameters() if not value.requires_grad}
    model.train()
    modes = {layer.training for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)}
    assert modes == ({True, False} if network == "resnet18" else set())


@pytest.mark.parametrize("name", ["conv2", "fc", "", "conv2_x."])
def test_a_wrong_name_lists_the_layers(name: str) -> None:
    with pytest.raises(UserError, match=r"conv1, bn1, conv2_x, conv3_x, conv4_x, conv5_x$"):
        frozen("resnet18", name)


@pytest.mark.parametrize("name", ["block2", "block3.1.bn1"])
def test_a_frozen_densenet_that_computes_activations_again_leaves_its_statistics_alone(
    name: str,
) -> None:
    torch.manual_seed(0)
    plain = DenseNet(8, (2, 2, 2, 2), num_classes=3, num_channels=3)
    freeze_until(plain, name)
    again = copy.deepcopy(plain)
    again.recompute = True
    before = copy.deepcopy(plain.state_dict())
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0])
    for model in (plain, again):
        nn.functional.cross_entropy(model.train()(images), labels).backward()
    for (key, ours), theirs in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None) == (not ours.requires_grad), key
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad), key
    for layer, module in again.named_modules():
        if isinstance(module, BatchNorm2d):
            values = module.state_dict().items()
            is_same = all(torch.equal(value, before[f"{layer}.{key}"]) for key, value in values)
            assert is_same == module.is_frozen, layer
