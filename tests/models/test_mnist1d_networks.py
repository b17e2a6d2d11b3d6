"""The networks for MNIST-1D: the lecture's sizes, and initial weights."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from pipeline.models.mnist1d_networks import SignalClassifier, mnist1d_conv, mnist1d_dense


def test_three_convolutions_leave_four_positions() -> None:
    network, x, shapes = mnist1d_conv(10), torch.zeros(1, 1, 40), []
    for layer in network.layers:
        x = layer(x)
        if isinstance(layer, nn.Conv1d):
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [(15, 19), (15, 9), (15, 4)]


def test_the_dense_network_has_as_many_units() -> None:
    linear = [layer for layer in mnist1d_dense(10).layers if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linear] == [15 * 19, 15 * 9, 15 * 4, 10]


@pytest.mark.parametrize("constructor", [mnist1d_conv, mnist1d_dense])
def test_initial_weights_suit_relu(constructor: Callable[[int], SignalClassifier]) -> None:
    torch.manual_seed(0)
    for layer in constructor(10).layers:
        if isinstance(layer, nn.Conv1d | nn.Linear):
            count, fan_in = layer.weight.numel(), layer.weight[0].numel()
            expected = math.sqrt(2 / fan_in)
            assert abs(layer.weight.mean().item()) < 5 * expected / math.sqrt(count)
            assert layer.weight.std().item() == pytest.approx(
                expected, rel=5 / math.sqrt(2 * count)
            )
            assert layer.bias is not None
            assert not layer.bias.any()
