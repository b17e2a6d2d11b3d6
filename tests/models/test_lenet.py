"""LeNet-5 against the paper's layers C1 to F6."""

import math

import pytest
import torch
from torch import nn

from pipeline.models.lenet import TABLE_I, Subsampling, digit_bitmaps, lenet5, lenet5_modern
from pipeline.models.profile import profile_model
from pipeline.runtime.errors import UserError


def test_layers_have_the_sizes_of_figure_2() -> None:
    with torch.device("meta"):
        layers = profile_model(lenet5_modern(10), (1, 32, 32)).layers
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


@pytest.fixture(scope="module")
def published() -> nn.Sequential:
    torch.manual_seed(0)
    return lenet5(10).layers


def test_the_paper_counts_these_parameters(published: nn.Sequential) -> None:
    counts = [sum(p.numel() for p in layer.parameters()) for layer in published]
    assert [count for count in counts if count] == [156, 12, 1516, 32, 48_120, 10_164]


def test_the_paper_counts_these_connections(published: nn.Sequential) -> None:
    """Each output of a unit has one for each input and one for its bias."""
    x, total = torch.zeros(1, 1, 32, 32), 0
    for layer in published:
        x = layer(x)
        sides = x.shape[2:].numel()
        if isinstance(layer, Subsampling):
            total += x.numel() * (4 + 1)
        else:
            total += sides * sum(p.numel() for p in layer.parameters())
    assert total + digit_bitmaps().numel() == 340_908


def test_a_map_of_c3_sees_the_maps_of_table_1(published: nn.Sequential) -> None:
    for map_of_s2 in range(6):
        maps = torch.zeros(1, 6, 14, 14)
        silence = published[4](maps)
        maps[0, map_of_s2] = 1.0
        seen = (published[4](maps) - silence)[0].abs().sum(dim=(1, 2)).nonzero().flatten().tolist()
        assert seen == [number for number, maps in enumerate(TABLE_I) if map_of_s2 in maps]


def test_subsampling_sums_four_values() -> None:
    layer = Subsampling(1)
    nn.init.constant_(layer.coefficient, 3.0)
    nn.init.constant_(layer.bias, 0.5)
    assert layer(torch.arange(4.0).reshape(1, 1, 2, 2)).item() == 3.0 * 6 + 0.5


def test_the_drawings_look_like_digits() -> None:
    rows = digit_bitmaps().reshape(10, 12, 7)
    assert rows.unique().tolist() == [-1, 1]
    one = ["".join(".#"[int(pixel > 0)] for pixel in row) for row in rows[1]]
    assert one[:4] == ["...##..", "..###..", ".####..", "...##.."]
    assert len(rows.unique(dim=0)) == 10


def test_the_nearest_drawing_has_the_highest_logit(published: nn.Sequential) -> None:
    codes = digit_bitmaps()
    logits = published[-1](codes)
    assert logits.argmax(dim=1).tolist() == list(range(10))
    assert torch.equal(logits.diagonal(), torch.zeros(10))
    assert logits[0, 1].item() == -4 * (codes[0] != codes[1]).sum().item()


def test_squashing_keeps_plus_and_minus_one(published: nn.Sequential) -> None:
    squashed = published[1](torch.tensor([-1.0, 0.0, 1.0]))
    torch.testing.assert_close(squashed, torch.tensor([-1.0, 0.0, 1.0]), atol=1e-4, rtol=0)


def test_a_map_of_c3_is_the_convolution_of_what_it_sees(published: nn.Sequential) -> None:
    layer, maps = published[4], torch.randn(2, 6, 14, 14)
    kernels = iter(layer.weight)
    for made, row in enumerate(TABLE_I):
        kernel = torch.stack([next(kernels) for _ in row])[None]
        expected = nn.functional.conv2d(maps[:, list(row)], kernel, layer.bias[made : made + 1])
        torch.testing.assert_close(layer(maps)[:, made : made + 1], expected, atol=1e-6, rtol=1e-5)


def test_weights_start_within_their_bounds(published: nn.Sequential) -> None:
    inputs = [(published[0], 25), (published[2], 4), (published[8], 400), (published[11], 120)]
    for layer, fan_in in inputs:
        values = torch.cat([parameter.flatten() for parameter in layer.parameters()])
        bound = 2.4 / fan_in
        assert values.abs().max() <= bound
        # A uniform distribution's deviation; the kurtosis of 1.8 makes its error 0.45 / √n.
        expected = bound / math.sqrt(3)
        assert values.std().item() == pytest.approx(expected, rel=5 * 0.45 / len(values) ** 0.5)


def test_weights_of_c3_start_by_what_their_map_sees(published: nn.Sequential) -> None:
    layer = published[4]
    fan_in = torch.tensor([25.0 * len(row) for row in TABLE_I])
    in_bounds = (
        layer.weight.detach() * (fan_in.repeat_interleave(fan_in.long() // 25) / 2.4)[:, None, None]
    )
    assert in_bounds.abs().max() <= 1
    assert in_bounds.std().item() == pytest.approx(1 / math.sqrt(3), rel=5 * 0.45 / 1500**0.5)
    assert (layer.bias * fan_in / 2.4).abs().max() <= 1


def test_more_than_ten_classes_are_refused() -> None:
    with pytest.raises(UserError, match="bitmaps of 10 digits"):
        lenet5(11)
