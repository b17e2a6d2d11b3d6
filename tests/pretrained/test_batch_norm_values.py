"""Batch norm of other projects, in the zoo's terms, gives the same numbers."""

import torch
from torch import nn

from pipeline.pretrained.batch_norm_values import BatchNormValues, identity


def test_a_bias_before_it_and_another_epsilon_go_into_its_statistics() -> None:
    torch.manual_seed(0)
    gamma, beta, mean, bias = torch.randn(4, 3)
    variance = torch.tensor([1e-4, 0.5, 2.0])  # small enough for ε to matter
    layer = nn.BatchNorm2d(3, eps=1e-5).eval()
    state = BatchNormValues(gamma, beta, mean, variance, 1e-3).state(layer.eps, bias)
    layer.load_state_dict(state, strict=False)
    images = torch.randn(2, 3, 4, 4)
    shape = (1, 3, 1, 1)
    deviation = (variance + 1e-3).sqrt().view(shape)
    expected = (images + bias.view(shape) - mean.view(shape)) / deviation
    expected = gamma.view(shape) * expected + beta.view(shape)
    torch.testing.assert_close(layer(images), expected, rtol=1e-5, atol=1e-5)


def test_an_identity_only_adds_the_bias() -> None:
    bias, images = torch.tensor([-2.0, 0.0, 3.0]), torch.randn(2, 3, 4, 4)
    layer = nn.BatchNorm2d(3, eps=1e-3).eval()
    layer.load_state_dict(identity(bias, layer.eps), strict=False)
    torch.testing.assert_close(layer(images), images + bias.view(1, 3, 1, 1))
