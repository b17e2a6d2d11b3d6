"""Dropout: what an image drops depends on that image and the layer alone."""

import numpy as np
import pytest
import torch

from pipeline.data.loading.philox import image_keys
from pipeline.models.dropout import Dropout, random_int64

KEYS = torch.from_numpy(image_keys(0, 0, np.arange(64)))


def splitmix64(state: int) -> int:
    """Return the next number after `state`, as the authors' code: unsigned 64-bit arithmetic."""
    mask = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def keyed(p: float, keys: torch.Tensor = KEYS, number: int = 0) -> Dropout:
    layer = Dropout(p)
    layer.image_keys, layer.layer_number = keys, number
    return layer


def test_the_numbers_are_those_of_splitmix64() -> None:
    numbers = random_int64(torch.tensor([0, -5]), 0, 3)
    # The first numbers of seed 0, as published with the generator's implementations.
    assert [number % 2**64 for number in numbers[0].tolist()] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]
    increment = 0x9E3779B97F4A7C15
    assert [number % 2**64 for number in numbers[1].tolist()] == [
        splitmix64(-5 + place * increment) for place in range(3)
    ]


@pytest.mark.parametrize("p", [0.2, 0.5, 0.7])
def test_a_share_is_dropped_and_the_mean_stays(p: float) -> None:
    dropped = keyed(p)(torch.ones(64, 4096))
    assert set(dropped.unique().tolist()) == {0.0, float(torch.tensor(1.0) / (1 - p))}
    # Four standard deviations of the mean of 2¹⁸ draws.
    assert abs((dropped == 0).double().mean() - p) < 4 * (p * (1 - p) / 2**18) ** 0.5
    of_units, of_images = (dropped == 0).double().mean(0), (dropped == 0).double().mean(1)
    assert abs(of_units - p).max() < 6 * (p * (1 - p) / 64) ** 0.5
    assert abs(of_images - p).max() < 5 * (p * (1 - p) / 4096) ** 0.5


def test_an_image_drops_the_same_whatever_is_computed_beside_it() -> None:
    values = torch.randn(64, 8, 5, 5)
    together = keyed(0.5)(values)
    for rows in (slice(0, 1), slice(10, 30)):
        assert torch.equal(keyed(0.5, KEYS[rows])(values[rows]), together[rows])
    in_channels_last = values.contiguous(memory_format=torch.channels_last)
    assert torch.equal(keyed(0.5)(in_channels_last), together)


def test_layers_and_images_drop_different_units() -> None:
    first, second = (keyed(0.5, number=number)(torch.ones(64, 4096)) > 0 for number in (0, 1))
    for one, other in ((first, second), (first[:-1], first[1:]), (first[:, :-1], first[:, 1:])):
        assert (one == other).double().mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_all_or_nothing(p: float) -> None:
    values = torch.rand(64, 10) + 1
    torch.testing.assert_close(keyed(p)(values), values * (1 - p))


def test_evaluation_drops_nothing_and_gradients_are_those_of_what_is_kept() -> None:
    values = torch.rand(64, 10, requires_grad=True)
    layer = keyed(0.5)
    output = layer(values)
    output.sum().backward()
    assert torch.equal(values.grad, (output > 0) * 2.0)
    assert torch.equal(layer.eval()(values), values)


def test_reduced_precision_is_kept() -> None:
    assert keyed(0.5)(torch.ones(64, 10, dtype=torch.bfloat16)).dtype == torch.bfloat16
