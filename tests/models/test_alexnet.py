"""AlexNet against the paper's text: sizes of its layers, initial weights, padding at the edges."""

import math

import pytest
import torch
from torch import Tensor, nn

from pipeline.models.alexnet import (
    AlexNet,
    alexnet,
    alexnet_bias01,
    alexnet_caffe,
    alexnet_code,
    alexnet_one_tower,
    alexnet_std003,
    alexnet_std003_bias01,
    caffenet,
)
from pipeline.models.profile import profile_model
from pipeline.models.response_norm import ResponseNorm
from pipeline.models.zoo import Constructor


@pytest.fixture(scope="module")
def network() -> AlexNet:
    torch.manual_seed(0)
    return alexnet(1000).eval()


def weighted(network: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def test_layers_have_the_sizes_of_figure_2() -> None:
    with torch.device("meta"):
        layers = profile_model(alexnet(1000), (3, 224, 224)).layers
    sizes = [
        math.prod(layer.output_shape) for layer in layers if layer.kind in ("Conv2d", "Linear")
    ]
    # The caption has 253,440 = 55·48·96 for the first; the layer has 55·55·96.
    assert sizes == [290_400, 186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000]
    pooled = [layer.output_shape for layer in layers if layer.kind == "MaxPool2d"]
    assert pooled == [(96, 27, 27), (256, 13, 13), (256, 6, 6)]


def test_layers_have_the_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        layers = profile_model(alexnet(1000), (3, 224, 224)).layers
    counts = [layer.parameters for layer in layers if layer.parameters]
    assert counts == [
        34_944, 307_456, 885_120, 663_936, 442_624, 37_752_832, 16_781_312, 4_097_000
    ]  # fmt: skip


# The deviation of each layer's weights, and its bias.
PAPER = (0.01,) * 8, (0, 1, 0, 1, 1, 1, 1, 0)
CODE = (0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01)
CAFFE = (0.01, 0.01, 0.01, 0.01, 0.01, 0.005, 0.005, 0.01)
SMALL_BIAS = (0, 0.1, 0, 0.1, 0.1, 0.1, 0.1, 0)
STARTS = [
    (alexnet, *PAPER),
    (alexnet_one_tower, *PAPER),
    (alexnet_code, CODE, PAPER[1]),
    (alexnet_std003, CODE, PAPER[1]),
    (alexnet_bias01, PAPER[0], SMALL_BIAS),
    (alexnet_std003_bias01, CODE, SMALL_BIAS),
    (alexnet_caffe, CAFFE, SMALL_BIAS),
    (caffenet, CAFFE, PAPER[1]),
]


@pytest.mark.parametrize(
    ("constructor", "stds", "biases"), STARTS, ids=lambda x: getattr(x, "__name__", str(x)[:40])
)
def test_initial_weights_are_the_published_ones(
    constructor: Constructor, stds: tuple[float, ...], biases: tuple[float, ...]
) -> None:
    torch.manual_seed(0)
    layers = weighted(constructor(10))
    for layer, std, bias in zip(layers, stds, biases, strict=True):
        count = layer.weight.numel()
        assert abs(layer.weight.mean().item()) < 5 * std / math.sqrt(count)
        # The relative standard error of a standard deviation is 1 / √(2 n).
        assert layer.weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * count))
        assert layer.bias is not None
        assert (layer.bias == bias).all()


def test_last_windows_run_over_the_right_and_bottom_edge(network: AlexNet) -> None:
    """Rounding up: window 54 covers pixels 216–226, of which 216–223 exist."""
    padding, convolution = network.edge, network.conv1

    def respond(image: Tensor) -> Tensor:
        with torch.no_grad():
            return convolution(padding(image))

    image = torch.zeros(1, 3, 224, 224)
    image[..., 0, 0] = 1.0
    image[..., 223, 223] = 1.0
    seen = respond(image)[0].abs().sum(dim=0).nonzero().tolist()
    # Window 53 starts at 212 and ends at 222: the last pixel is in the last window only.
    assert seen == [[0, 0], [54, 54]]
    corner = convolution.weight.sum(dim=1)[:, 223 - 216, 223 - 216]
    torch.testing.assert_close(respond(image)[0, :, 54, 54], corner.detach())


def test_only_layer_3_joins_the_two_groups(network: AlexNet) -> None:
    groups = [layer.groups for layer in weighted(network) if isinstance(layer, nn.Conv2d)]
    assert groups == [1, 2, 1, 2, 2]


def test_dropout_is_on_the_first_two_connected_layers(network: AlexNet) -> None:
    order = [name for name, _ in network.named_children()]
    assert [name for name in order if "dropout" in name] == ["dropout6", "dropout7"]
    for number in (6, 7):
        names = [f"fc{number}", f"relu{number}", f"dropout{number}"]
        assert order[order.index(names[0]) :][:3] == names


def test_the_code_normalizes_before_the_first_relu_and_within_maps_after_the_second() -> None:
    with torch.device("meta"):
        code, paper = (make(10) for make in (alexnet_code, alexnet))
    order = [name for name, _ in code.named_children()]
    assert order[1:5] == ["conv1", "norm1", "pool1", "relu1"]
    assert order[5:10] == ["conv2", "relu2", "norm2", "map_norm2", "pool2"]
    assert [name for name, _ in paper.named_children()][1:5] == ["conv1", "relu1", "norm1", "pool1"]


@pytest.mark.parametrize(
    ("constructor", "k", "alpha"),
    [
        (alexnet, 2.0, 1e-4),
        (alexnet_one_tower, 2.0, 1e-4),
        (alexnet_code, 2.0, 1e-4 / 5),
        (alexnet_caffe, 1.0, 1e-4 / 5),
        (caffenet, 1.0, 1e-4 / 5),
    ],
)
def test_normalization_has_the_published_constants(
    constructor: Constructor, k: float, alpha: float
) -> None:
    """Paper, §3.3: a / (k + α Σ a²)^β; its code and Caffe divide α by the five channels."""
    with torch.device("meta"):
        layers = list(constructor(10).modules())
    norms = [layer for layer in layers if isinstance(layer, ResponseNorm)]
    images = torch.randn(1, 1, 3, 3) * 100  # one channel: its neighbours count 0
    expected = images / (k + alpha * images**2) ** 0.75
    assert [norm.size for norm in norms] == [5, 5]
    for norm in norms:
        torch.testing.assert_close(norm(images), expected)


def test_one_tower_has_no_groups() -> None:
    with torch.device("meta"):
        layers = weighted(alexnet_one_tower(10))
    assert {layer.groups for layer in layers if isinstance(layer, nn.Conv2d)} == {1}


def test_caffenet_pools_before_it_normalizes() -> None:
    with torch.device("meta"):
        order = [name for name, _ in caffenet(10).named_children()]
    assert order[1:5] == ["conv1", "relu1", "pool1", "norm1"]
    assert order[5:9] == ["conv2", "relu2", "pool2", "norm2"]


def test_caffes_networks_see_227_pixels_and_pad_fewer() -> None:
    torch.manual_seed(0)
    network = alexnet_caffe(10).eval()
    images = torch.randn(1, 3, 227, 227)
    smaller = images[..., :224, :224]
    padded = nn.functional.pad(smaller, (0, 3, 0, 3))
    with torch.no_grad():
        seen, unseen, by_hand = network(images), network(smaller), network(padded)
    assert torch.equal(unseen, by_hand)
    assert not torch.equal(seen, unseen)
