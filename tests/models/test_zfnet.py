"""ZFNet against the map sizes of the paper's Figure 3."""

import torch

from pipeline.models.profile import profile_model
from pipeline.models.zfnet import zfnet


def test_maps_have_the_sizes_of_figure_3() -> None:
    with torch.device("meta"):
        layers = profile_model(zfnet(1000), (3, 224, 224)).layers
    kinds = ("Conv2d", "MaxPool2d")
    shapes = [layer.output_shape for layer in layers if layer.kind in kinds]
    assert shapes == [
        (96, 110, 110), (96, 55, 55), (256, 26, 26), (256, 13, 13),
        (384, 13, 13), (384, 13, 13), (256, 13, 13), (256, 6, 6),
    ]  # fmt: skip


def test_initial_weights_have_a_deviation_of_0_01_and_biases_are_0() -> None:
    torch.manual_seed(0)
    for name, parameter in zfnet(10).named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        else:
            assert abs(parameter.std().item() - 0.01) < 5e-4
            assert abs(parameter.mean().item()) < 5e-4
