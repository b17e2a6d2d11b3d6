"""AlexNet against the paper's text: sizes of its layers, how they start, where windows end."""

import math

import pytest
import torch
from torch import Tensor, nn

from pipeline.models.alexnet import AlexNet, alexnet
from pipeline.models.anatomy import dissect


@pytest.fixture(scope="module")
def network() -> AlexNet:
    torch.manual_seed(0)
    return alexnet(1000).eval()


def weighted(network: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def test_layers_have_the_sizes_of_figure_2() -> None:
    with torch.device("meta"):
        layers = dissect(alexnet(1000), (3, 224, 224)).layers
    sizes = [
        math.prod(layer.output_shape) for layer in layers if layer.kind in ("Conv2d", "Linear")
    ]
    # The caption has 253,440 = 55·48·96 for the first; the layer has 55·55·96.
    assert sizes == [290_400, 186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000]
    pooled = [layer.output_shape for layer in layers if layer.kind == "MaxPool2d"]
    assert pooled == [(96, 27, 27), (256, 13, 13), (256, 6, 6)]


def test_layers_have_the_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        layers = dissect(alexnet(1000), (3, 224, 224)).layers
    counts = [layer.parameters for layer in layers if layer.parameters]
    assert counts == [
        34_944, 307_456, 885_120, 663_936, 442_624, 37_752_832, 16_781_312, 4_097_000
    ]  # fmt: skip


def test_weights_start_as_published(network: AlexNet) -> None:
    for layer, bias in zip(weighted(network), (0, 1, 0, 1, 1, 1, 1, 0), strict=True):
        count = layer.weight.numel()
        assert abs(layer.weight.mean().item()) < 5 * 0.01 / math.sqrt(count)
        # The relative standard error of a standard deviation is 1 / √(2 n).
        assert layer.weight.std().item() == pytest.approx(0.01, rel=5 / math.sqrt(2 * count))
        assert layer.bias is not None
        assert (layer.bias == bias).all()


def test_last_windows_run_over_the_right_and_bottom_edge(network: AlexNet) -> None:
    """Rounding up: window 54 covers pixels 216–226, of which 216–223 exist."""
    padding, convolution = network.features[0], network.features[1]
    assert isinstance(convolution, nn.Conv2d)

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


def test_the_two_groups_meet_in_layer_3_only(network: AlexNet) -> None:
    groups = [layer.groups for layer in weighted(network) if isinstance(layer, nn.Conv2d)]
    assert groups == [1, 2, 1, 2, 2]


def test_dropout_is_on_the_first_two_connected_layers(network: AlexNet) -> None:
    kinds = [type(layer) for layer in network.classifier]
    assert kinds.count(nn.Dropout) == 2
    assert kinds[-1] is nn.Linear
    assert kinds[-2] is nn.Dropout
