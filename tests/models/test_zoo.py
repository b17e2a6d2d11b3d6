"""Tests of every network: published counts, shapes, gradients, modes."""

import copy
import math
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.config import recipe
from pipeline.models.alexnet import AlexNet
from pipeline.models.classifier import ImageClassifier, WithAuxiliary
from pipeline.models.lenet import LeNet5Modern
from pipeline.models.profile import profile_model
from pipeline.models.resnet import ResNet
from pipeline.models.vgg import VGG
from pipeline.models.weights_file import read_weights
from pipeline.models.zoo import NETWORKS, build_model
from pipeline.runtime.errors import UserError

# Parameters and multiply-adds with the published number of classes, at the published input size;
# without auxiliary classifiers, which are there for training only.
PUBLISHED = {
    "lenet5": (10, 60_000, 325_680),
    "lenet5_modern": (10, 61_706, 416_520),
    "alexnet": (1000, 60_965_224, 724_406_816),
    "alexnet_code": (1000, 60_965_224, 724_406_816),
    "alexnet_caffe": (1000, 60_965_224, 724_406_816),
    "caffenet": (1000, 60_965_224, 724_406_816),
    "alexnet_one_tower": (1000, 62_378_344, 1_135_256_096),
    "alexnet_std003": (1000, 60_965_224, 724_406_816),
    "alexnet_bias01": (1000, 60_965_224, 724_406_816),
    "alexnet_std003_bias01": (1000, 60_965_224, 724_406_816),
    "zfnet": (1000, 62_357_608, 1_168_032_896),
    "vgg_a": (1000, 132_863_336, 7_609_090_048),
    "vgg_a_lrn": (1000, 132_863_336, 7_609_090_048),
    "vgg_b": (1000, 133_047_848, 11_308_466_176),
    "vgg_c": (1000, 133_638_952, 11_770_888_192),
    "vgg16": (1000, 138_357_544, 15_470_264_320),
    "vgg19": (1000, 143_667_240, 19_632_062_464),
    "vgg_a_bn": (1000, 132_868_840, 7_609_090_048),
    "vgg_b_bn": (1000, 133_053_736, 11_308_466_176),
    "vgg16_bn": (1000, 138_365_992, 15_470_264_320),
    "vgg19_bn": (1000, 143_678_248, 19_632_062_464),
    "googlenet": (1000, 6_998_552, 1_582_671_872),
    "googlenet_bn": (1000, 7_005_832, 1_582_671_872),
    "inception_v3": (1000, 23_834_568, 5_713_216_096),
    "inception_v3_tf": (1000, 23_834_568, 5_713_216_096),
    "plain18": (1000, 11_515_688, 1_794_805_760),
    "plain34": (1000, 21_623_848, 3_644_493_824),
    "resnet18": (1000, 11_689_512, 1_814_073_344),
    "resnet18_option_a": (1000, 11_515_688, 1_794_805_760),
    "resnet18_option_c": (1000, 12_043_816, 1_878_298_624),
    "resnet34": (1000, 21_797_672, 3_663_761_408),
    "resnet34_option_a": (1000, 21_623_848, 3_644_493_824),
    "resnet34_option_c": (1000, 22_716_840, 3_830_747_136),
    "resnet50": (1000, 25_557_032, 3_857_973_248),
    "resnet101": (1000, 44_549_160, 7_570_194_432),
    "resnet152": (1000, 60_192_808, 11_282_415_616),
    "resnet50_v1_5": (1000, 25_557_032, 4_089_184_256),
    "resnet101_v1_5": (1000, 44_549_160, 7_801_405_440),
    "resnet152_v1_5": (1000, 60_192_808, 11_513_626_624),
    "resnet50_caffe": (1000, 25_557_096, 3_857_973_248),
    "resnet101_caffe": (1000, 44_549_160, 7_570_194_432),
    "resnet152_caffe": (1000, 60_192_808, 11_282_415_616),
    "densenet121": (1000, 7_978_856, 2_834_161_664),
    "densenet169": (1000, 14_149_480, 3_359_843_328),
    "densenet201": (1000, 20_013_928, 4_291_365_888),
    "densenet264": (1000, 33_337_704, 5_751_653_376),
    "densenet161": (1000, 28_681_000, 7_727_907_072),
    "mnist1d_conv": (10, 2_050, 10_230),
    "mnist1d_dense": (10, 59_065, 58_575),
}
NUM_CLASSES = 7
BATCH = 2
# The others are made of the same blocks, or costly, and run in `make test-slow`.
FAST = [
    "lenet5",
    "lenet5_modern",
    "alexnet",
    "alexnet_code",
    "zfnet",
    "googlenet",
    "plain18",
    "resnet18",
    "resnet18_option_a",
    "resnet50",
    "resnet50_v1_5",
    "densenet121",
    "mnist1d_conv",
    "mnist1d_dense",
]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in NETWORKS
    ],
)
def network(request: pytest.FixtureRequest) -> ImageClassifier:
    torch.manual_seed(0)
    return NETWORKS[request.param](NUM_CLASSES)


def images_for(network: ImageClassifier, batch: int = BATCH) -> Tensor:
    """Noise of unit variance at the smallest size that the network takes."""
    shape = network.input_shape
    sides = (shape.min_size,) * shape.dimensions
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, shape.num_channels, *sides, generator=generator)


def all_logits(output: Tensor | WithAuxiliary) -> tuple[Tensor, ...]:
    """The network's own, then those of its auxiliary classifiers."""
    if isinstance(output, WithAuxiliary):
        return output.logits, *output.auxiliary
    return (output,)


def assert_nearly_equal(got: Tensor, expected: Tensor) -> None:
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


def test_every_network_has_its_published_counts() -> None:
    assert PUBLISHED.keys() == NETWORKS.keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_and_multiply_adds_are_the_published_ones(name: str) -> None:
    num_classes, parameters, multiply_adds = PUBLISHED[name]
    with torch.device("meta"):
        model = NETWORKS[name](num_classes)
    profile = profile_model(model, model.input_shape.published)
    assert profile.parameters == parameters
    assert profile.multiply_adds == multiply_adds
    named = [item for item in model.named_parameters() if not item[0].startswith("auxiliary")]
    assert sum(parameter.numel() for _, parameter in named) == parameters
    assert profile.layers[-1].output_shape == (num_classes,)


def farthest_from_chance(network: ImageClassifier) -> float:
    """How far the first loss may be from ln(classes), as the initial weights have it."""
    match network:
        case LeNet5Modern():  # its last layer starts as wide as the others
            return 3.0
        case AlexNet():  # its biases of 1 and dropout hold thousands of units near 2
            return 3.0
        case VGG():  # without batch norm, next to nothing arrives
            normalised = any(isinstance(part, nn.BatchNorm2d) for part in network.modules())
            return 1.5 if normalised else 0.01
        case _:  # a ResNet's logits at 1×1 have a variance near 0.5
            return 0.75


def test_every_parameter_gets_a_gradient_and_the_first_loss_is_near_chance(
    network: ImageClassifier,
) -> None:
    network.train()
    network.zero_grad()
    # Batch norm makes ±1 of two images at 1×1, and rounding can swap them.
    batch = 8 if isinstance(network, ResNet) else BATCH
    logits, *auxiliary = all_logits(network(images_for(network, batch)))
    assert logits.shape == (batch, NUM_CLASSES)
    labels = torch.arange(batch) * 5 % NUM_CLASSES
    loss = nn.functional.cross_entropy(logits, labels)
    assert abs(loss.item() - math.log(NUM_CLASSES)) < farthest_from_chance(network)
    for others in auxiliary:
        loss += nn.functional.cross_entropy(others, labels)
    loss.backward()
    without = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all() or not parameter.grad.any()
    ]
    assert without == []


@pytest.mark.parametrize("name", NETWORKS)
def test_the_head_is_what_depends_on_the_number_of_classes(name: str) -> None:
    with torch.device("meta"):
        one, other = NETWORKS[name](num_classes=7), NETWORKS[name](num_classes=9)
    other_shapes = {key: value.shape for key, value in other.state_dict().items()}
    differ = {key for key, value in one.state_dict().items() if value.shape != other_shapes[key]}
    assert differ == {key for key in other_shapes if one.is_of_head(key)}
    loaded = one.start_from(other.state_dict(), new_head=True)
    assert set(loaded.new) == set(one.head)
    with pytest.raises(UserError, match="train on the same classes, or give --new-head"):
        one.start_from(other.state_dict())


def test_modes_differ_only_with_dropout_or_batch_norm(network: ImageClassifier) -> None:
    images = images_for(network)
    modal = any(isinstance(module, nn.Dropout | nn.BatchNorm2d) for module in network.modules())
    with torch.no_grad():
        training = all_logits(network.train()(images))[0]
        testing = network.eval()(images)
    assert torch.equal(training, testing) == (not modal)


def test_saved_weights_are_loaded(network: ImageClassifier, tmp_path: Path) -> None:
    images = images_for(network)
    file = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), file)
    again = copy.deepcopy(network)
    for value in again.state_dict().values():
        value.zero_()
    again.start_from(read_weights(file))
    with torch.no_grad():
        assert torch.equal(again.eval()(images), network.eval()(images))


def test_testing_is_repeatable_and_independent_of_the_batch(network: ImageClassifier) -> None:
    images = images_for(network)
    network.eval()
    with torch.no_grad():
        together, again = network(images), network(images)
        alone = network(images[:1])
    assert torch.equal(together, again)
    assert_nearly_equal(alone, together[:1])


def test_channels_last_changes_only_rounding(network: ImageClassifier) -> None:
    images = images_for(network)
    if images.ndim != 4:
        return  # signals have one layout
    network.eval()
    with torch.no_grad():
        expected = network(images)
        network.to(memory_format=torch.channels_last)
        got = network(images.to(memory_format=torch.channels_last))
        network.to(memory_format=torch.contiguous_format)
    assert_nearly_equal(got, expected)


def test_bfloat16_autocast_changes_logits_by_less_than_3_percent(network: ImageClassifier) -> None:
    images = images_for(network, batch=1)
    network.eval()
    with torch.no_grad():
        expected = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            got = network(images).float()
    # bfloat16 has 8 bits: some percent after dozens of layers.
    assert (got - expected).norm() < 0.03 * expected.norm()


def test_an_unknown_network_is_refused_with_similar_names() -> None:
    with pytest.raises(
        UserError, match=r"network 'resnet19' is not known; did you mean `resnet18`"
    ):
        build_model(recipe.NetworkConfig(name="resnet19", num_classes=10), rgb(224))


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("lenet5_modern", 28, "images of 32×32"),
        ("alexnet", 227, "images of 224×224"),
        ("caffenet", 228, "images of 224×224 to 227×227"),
        ("resnet18", 31, "images of at least 32×32"),
    ],
)
def test_a_size_that_a_network_does_not_accept_is_refused(
    name: str, size: int, message: str
) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=message):
        build_model(recipe.NetworkConfig(name=name, num_classes=10), rgb(size))


def test_signals_are_refused_by_a_network_for_images() -> None:
    signals = recipe.InputConfig(size=32, dimensions=1, color="gray", mean=(0,), std=(1,))
    with torch.device("meta"), pytest.raises(UserError, match="it takes images of"):
        build_model(recipe.NetworkConfig(name="resnet18", num_classes=10), signals)


def test_an_option_that_a_network_lacks_is_refused() -> None:
    network = recipe.NetworkConfig(name="resnet18", num_classes=10, recompute=True)
    with torch.device("meta"), pytest.raises(UserError, match="resnet18 has no network"):
        build_model(network, rgb(64))


@pytest.mark.parametrize(
    ("name", "initialization", "cause"),
    [
        ("alexnet", "published", "initial biases of 1"),
        ("alexnet_std003", "published", "initial biases of 1"),
        ("alexnet_caffe", "published", "optimizer"),
        ("alexnet", "glorot", "optimizer"),
        ("vgg16", "published", "initial weights"),
        ("vgg16", "glorot", "optimizer"),
        ("vgg16_bn", "published", "optimizer"),
    ],
)
def test_the_hint_for_a_flat_loss_fits_the_network(
    name: str, initialization: Literal["published", "glorot"], cause: str
) -> None:
    network = recipe.NetworkConfig(name=name, num_classes=10, initialization=initialization)
    with torch.device("meta"):
        hint = build_model(network, rgb(224)).flat_loss_hint
    assert cause in hint
    assert not (initialization == "glorot" and "glorot" in hint)


def test_glorots_initial_weights_are_uniform() -> None:
    torch.manual_seed(0)
    network = recipe.NetworkConfig(name="resnet18", num_classes=10, initialization="glorot")
    weights = build_model(network, rgb(64)).get_submodule("conv5_x.1.conv2").weight
    bound = math.sqrt(6 / (2 * 9 * 512))
    assert weights.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert weights.std().item() == pytest.approx(bound / math.sqrt(3), rel=1e-2)


def test_lecuns_initial_weights_have_the_deviation_of_their_fan_in() -> None:
    torch.manual_seed(0)
    network = recipe.NetworkConfig(name="lenet5", num_classes=10, initialization="lecun")
    gray = recipe.InputConfig(size=32, color="gray", mean=(0,), std=(1,))
    layers = build_model(network, gray).get_submodule("layers")
    for number, fan_in in (("8", 400), ("11", 120)):
        weights = layers.get_parameter(f"{number}.weight")
        assert weights.abs().max() <= math.sqrt(3 / fan_in)
        assert weights.std().item() == pytest.approx(1 / math.sqrt(fan_in), rel=2e-2)
        assert not layers.get_parameter(f"{number}.bias").any()
    partial = layers.get_parameter("4.weight")  # its first 6 maps see 3 others, its last all 6
    for kernels, num_seen in ((partial[:18], 3), (partial[-6:], 6)):
        bound = math.sqrt(3 / (25 * num_seen))
        assert kernels.abs().max() <= bound
        assert kernels.abs().max().item() == pytest.approx(bound, rel=0.05)


@pytest.mark.parametrize("name", NETWORKS)
def test_any_number_of_channels_is_accepted(name: str) -> None:
    with torch.device("meta"):
        model = NETWORKS[name](3, 2).eval()
        shape = model.input_shape
        images = torch.empty(2, 2, *(shape.size,) * shape.dimensions)
        assert model(images).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("alexnet", 224),
        ("alexnet_caffe", 224),
        ("caffenet", 225),
        ("resnet18", 32),
        ("resnet50", 65),
    ],
)
def test_accepted_sizes_run(name: str, size: int) -> None:
    with torch.device("meta"):
        model = build_model(recipe.NetworkConfig(name=name, num_classes=3), rgb(size))
        assert model(torch.empty(2, 3, size, size)).shape == (2, 3)


def rgb(size: int) -> recipe.InputConfig:
    return recipe.InputConfig(size=size, color="rgb", mean=(0, 0, 0), std=(1, 1, 1))
