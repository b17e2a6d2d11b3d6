"""DenseNet against Table 1, its published initial weights, and itself with recomputation."""

import math
import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn

from pipeline.models.densenet import DenseNet, densenet121, densenet161
from pipeline.models.profile import profile_model
from pipeline.models.zoo import NETWORKS


def test_stages_have_the_sizes_of_table_1() -> None:
    with torch.device("meta"):
        layers = profile_model(densenet121(1000), (3, 224, 224)).layers
    stages = ("block1", "transition1", "block2", "transition2", "block3", "transition3", "block4")
    parameters = [
        sum(layer.parameters for layer in layers if layer.name.startswith(f"{stage}."))
        for stage in stages
    ]
    assert parameters == [335_040, 33_280, 919_680, 132_096, 2_837_760, 526_336, 2_158_080]
    outputs = {layer.name: layer.output_shape for layer in layers}
    pooled = [outputs[f"transition{i}.pool"] for i in (1, 2, 3)]
    assert pooled == [(128, 28, 28), (256, 14, 14), (512, 7, 7)]
    assert outputs["bn5"] == (1024, 7, 7)


def test_every_block_of_densenet161_has_a_growth_of_48() -> None:
    with torch.device("meta"):
        layers = profile_model(densenet161(1000), (3, 224, 224)).layers
    outputs = {layer.name: layer.output_shape for layer in layers}
    assert outputs["conv0"] == (96, 112, 112)
    widths = [outputs[f"transition{i}.bn"][0] for i in (1, 2, 3)]
    assert [*widths, outputs["bn5"][0]] == [384, 768, 2112, 2208]


@pytest.mark.parametrize(
    "name",
    [
        "densenet121",
        *(
            pytest.param(f"densenet{number}", marks=pytest.mark.slow)
            for number in (161, 169, 201, 264)
        ),
    ],
)
def test_initial_weights_are_the_published_ones(name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name](10)
    assert isinstance(model, DenseNet)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            count, std = layer.weight.numel(), math.sqrt(2 / layer.weight[:, 0].numel())
            assert layer.bias is None
            assert abs(layer.weight.mean().item()) < 5 * std / math.sqrt(count)
            assert layer.weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * count))
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all()
            assert not layer.bias.any()
    bound = 1 / math.sqrt(model.fc.in_features)
    assert model.fc.weight.abs().max().item() == pytest.approx(bound, rel=1e-2)
    assert not model.fc.bias.any()


def small() -> DenseNet:
    torch.manual_seed(0)
    return DenseNet(8, (2, 3, 2, 2), num_classes=3, num_channels=3)


def test_recomputing_changes_no_number() -> None:
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    kept, again = small(), small()
    again.recompute = True
    for model in (kept, again):
        nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 0])).backward()
    for expected, got in zip(kept.parameters(), again.parameters(), strict=True):
        assert torch.equal(got.grad, expected.grad)
    # Batch norm has seen the batch once, and would go on with its own momentum.
    for (name, expected), got in zip(
        kept.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(got, expected), name
    momenta = {norm.momentum for norm in again.modules() if isinstance(norm, nn.BatchNorm2d)}
    assert momenta == {0.1}


def bytes_kept(model: nn.Module) -> int:
    """What the forward pass keeps for the backward pass, each memory once."""
    kept: dict[int, int] = {}

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        output = model(torch.randn(8, 3, 64, 64))
    del output
    return sum(kept.values())


def test_recomputing_stores_as_little_as_torchvision() -> None:
    model = DenseNet(8, (6, 6, 6, 6), num_classes=3, num_channels=3)
    everything = bytes_kept(model)
    model.recompute = True
    theirs = torchvision.models.DenseNet(8, (6, 6, 6, 6), 16, num_classes=3, memory_efficient=True)
    assert bytes_kept(model) <= 1.01 * bytes_kept(theirs) < 0.7 * everything


STEP = """
import resource, sys, torch, torchvision
from pipeline.models.zoo import NETWORKS
if sys.argv[1] == "ours":
    model = NETWORKS["densenet121"](num_classes=1000)
    model.recompute = True
else:
    model = torchvision.models.densenet121(memory_efficient=True)
images, labels = torch.randn(32, 3, 224, 224), torch.zeros(32, dtype=torch.long)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
torch.nn.functional.cross_entropy(model(images), labels).backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_a_recomputing_step_takes_as_little_memory_as_torchvision() -> None:
    peaks = [
        int(subprocess.check_output([sys.executable, "-c", STEP, whose]))
        for whose in ("ours", "torchvision")
    ]
    assert peaks[0] <= 1.1 * peaks[1]
