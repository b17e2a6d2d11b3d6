"""Inception-v3 against torchvision's, the sizes in the paper, and the authors' initial weights."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from pipeline.models.classifier import WithAuxiliary
from pipeline.models.inception import InceptionV3, inception_v3

NUM_CLASSES = 20
BATCH = 3
# What is left of the deviation of a normal distribution that is cut at two deviations.
CUT = 0.8796


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(0)
    network = torchvision.models.inception_v3(num_classes=NUM_CLASSES, init_weights=False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


@pytest.fixture(scope="module")
def fresh() -> InceptionV3:
    torch.manual_seed(0)
    return inception_v3(NUM_CLASSES)


@pytest.fixture
def ours(theirs: nn.Module) -> InceptionV3:
    with torch.device("meta"):
        network = inception_v3(NUM_CLASSES)
    # Both list their parts in the same order, under other names.
    values = [value.clone() for value in theirs.state_dict().values()]
    network.load_state_dict(dict(zip(network.state_dict(), values, strict=True)), assign=True)
    return network


def images(batch: int) -> Tensor:
    return torch.randn(batch, 3, 299, 299, generator=torch.Generator().manual_seed(1))


def assert_nearly_equal(got: Tensor, expected: Tensor) -> None:
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


def test_auxiliary_logits_equal_torchvisions(ours: InceptionV3, theirs: nn.Module) -> None:
    features = torch.randn(2, 768, 17, 17, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert_nearly_equal(ours.eval().auxiliary(features), theirs.eval().AuxLogits(features))


def test_the_auxiliary_classifier_is_on_6e_in_training_only() -> None:
    with torch.device("meta"):
        network = inception_v3(7).train()
        trained = network(torch.empty(2, 3, 299, 299))
        assert isinstance(trained, WithAuxiliary)
        assert [logits.shape for logits in (trained.logits, *trained.auxiliary)] == [(2, 7)] * 2
        trained.auxiliary[0].sum().backward()
        without = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is None}
        assert without == {"mixed_7a", "mixed_7b", "mixed_7c", "fc"}
        assert network.eval()(torch.empty(2, 3, 299, 299)).shape == (2, 7)


@pytest.mark.slow
def test_in_training_all_logits_equal_torchvisions_and_every_parameter_has_a_gradient(
    ours: InceptionV3, theirs: nn.Module
) -> None:
    ours.train().dropout.eval()
    theirs.train().dropout.eval()
    got = ours(images(BATCH))
    with torch.no_grad():
        expected = theirs(images(BATCH))
    assert isinstance(got, WithAuxiliary)
    assert_nearly_equal(got.logits, expected.logits)
    assert len(got.auxiliary) == 1
    assert_nearly_equal(got.auxiliary[0], expected.aux_logits)
    labels = torch.arange(BATCH)
    loss = sum(nn.functional.cross_entropy(logits, labels) for logits in (got[0], *got[1]))
    assert isinstance(loss, Tensor)
    loss.backward()
    without = [
        name
        for name, parameter in ours.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all() or not parameter.grad.any()
    ]
    assert without == []


def test_parameters_are_the_known_ones_with_and_without_the_auxiliary_classifier() -> None:
    with torch.device("meta"):
        network = inception_v3(1000)
    total = sum(parameter.numel() for parameter in network.parameters())
    auxiliary = sum(parameter.numel() for parameter in network.auxiliary.parameters())
    assert total == 27_161_264
    assert total - auxiliary == 23_834_568


def test_maps_have_the_sizes_of_the_paper() -> None:
    with torch.device("meta"):
        network = inception_v3(1000).eval()
        sizes: dict[str, tuple[int, ...]] = {}
        for name, module in network.named_children():
            if name.startswith("mixed"):
                module.register_forward_hook(
                    lambda _, __, output, name=name: sizes.update({name: tuple(output.shape[1:])})
                )
        network(torch.empty(1, 3, 299, 299))
    assert sizes == {
        "mixed_5b": (256, 35, 35),
        "mixed_5c": (288, 35, 35),
        "mixed_5d": (288, 35, 35),
        "mixed_6a": (768, 17, 17),
        "mixed_6b": (768, 17, 17),
        "mixed_6c": (768, 17, 17),
        "mixed_6d": (768, 17, 17),
        "mixed_6e": (768, 17, 17),
        "mixed_7a": (1280, 8, 8),
        "mixed_7b": (2048, 8, 8),
        "mixed_7c": (2048, 8, 8),
    }


def test_initial_weights_are_the_authors(fresh: InceptionV3) -> None:
    stds = {"fc": 0.01, "auxiliary.conv2.conv": 0.01, "auxiliary.fc": 0.001}
    for name, layer in fresh.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            std = stds.get(name, 0.1)
            count = layer.weight.numel()
            assert layer.weight.abs().max() <= 2 * std, name
            assert abs(layer.weight.mean().item()) < 5 * std / count**0.5, name
            close = pytest.approx(CUT * std, rel=5 / (2 * count) ** 0.5)
            assert layer.weight.std().item() == close, name
            assert layer.bias is None or not layer.bias.any(), name


def test_the_smallest_size_is_what_the_auxiliary_classifier_needs() -> None:
    with torch.device("meta"):
        network = inception_v3(7).train()
        smallest = network.input_shape.min_size
        network(torch.empty(2, 3, smallest, smallest))
        with pytest.raises(RuntimeError):
            network(torch.empty(2, 3, smallest - 1, smallest - 1))
