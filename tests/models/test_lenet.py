"""LeNet-5 against the paper's layers C1 to F6."""

import math

import pytest
import torch
from torch import nn

from pipeline.models.anatomy import dissect
from pipeline.models.lenet import lenet5_modern


def test_layers_have_the_sizes_of_figure_2() -> None:
    with torch.device("meta"):
        layers = dissect(lenet5_modern(10), (1, 32, 32)).layers
    kinds = ("Conv2d", "MaxPool2d", "Linear")
    shapes = [layer.output_shape for layer in layers if layer.kind in kinds]
    assert shapes == [
        (6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (120, 1, 1), (84,), (10,)
    ]  # fmt: skip
    counts = [layer.parameters for layer in layers if layer.parameters]
    assert counts == [156, 2416, 48_120, 10_164, 850]


def test_weights_start_for_relu() -> None:
    torch.manual_seed(0)
    for layer in lenet5_modern(10).modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            count = layer.weight.numel()
            std = math.sqrt(2 / layer.weight[0].numel())
            assert layer.weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * count))
            assert layer.bias is not None
            assert not layer.bias.any()
