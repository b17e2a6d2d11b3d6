"""The memory of activations, counted by hand."""

import pytest
import torch
from torch import nn

from pipeline.models.activation_memory import activation_bytes
from pipeline.models.zoo import NETWORKS


def of(name: str) -> int:
    with torch.device("meta"):
        network = NETWORKS[name](10)
        return activation_bytes(network, network.input_shape.published)


def test_the_signal_and_the_outputs_of_relus_are_stored() -> None:
    # ReLU writes over the convolution's output; the next layer keeps the same memory.
    assert of("mnist1d_conv") == 4 * (40 + 15 * 19 + 15 * 9 + 15 * 4)


def test_maxima_are_stored_with_their_indices() -> None:
    image, c1, s2, c3, s4, c5, f6 = 1024, 6 * 28**2, 6 * 14**2, 16 * 10**2, 16 * 5**2, 120, 84
    assert of("lenet5_modern") == 4 * (image + c1 + s2 + c3 + s4 + c5 + f6) + 8 * (s2 + s4)


def test_alexnets_memory_equals_a_count_by_hand() -> None:
    edge, conv1, pool1, conv2, pool2 = 3 * 227**2, 96 * 55**2, 96 * 27**2, 256 * 27**2, 256 * 13**2
    conv3, conv5, pool5 = 384 * 13**2, 256 * 13**2, 256 * 6**2
    norms = 2 * (conv1 + conv2)  # what came in, what goes to the pool
    pools = pool1 + pool2 + pool5
    full = 2 * 3 * 4096  # ReLU's output, dropout's mask, their product
    assert of("alexnet") == 4 * (edge + norms + pools + 2 * conv3 + conv5 + full) + 8 * pools


def test_batch_norm_stores_its_input_and_is_left_unchanged() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert activation_bytes(network, (1, 5, 5)) == 4 * (25 + 36 + 36)
    assert network.training
    assert not network[1].training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_auxiliary_classifiers_are_counted() -> None:
    with torch.device("meta"):
        network = NETWORKS["googlenet"](10)
        whole = activation_bytes(network, (3, 224, 224))
        network.auxiliary1 = network.auxiliary2 = nn.Identity()
        assert activation_bytes(network, (3, 224, 224)) < whole


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_images_whose_last_map_has_one_position_are_counted(name: str) -> None:
    with torch.device("meta"):
        assert activation_bytes(NETWORKS[name](10), (3, 32, 32)) > 0
