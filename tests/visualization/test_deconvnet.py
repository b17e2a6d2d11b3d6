import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.response_norm import ResponseNorm
from pipeline.models.zoo import NETWORKS
from pipeline.runtime.errors import UserError
from pipeline.visualization.activations import Activation, layer_output
from pipeline.visualization.deconvnet import deconvnet_of, project


def convolution(weights: list[list[list[list[float]]]], bias: float = 0.0) -> nn.Conv2d:
    kernel = torch.tensor(weights)
    layer = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[2])
    layer.weight.data = kernel
    layer.bias.data.fill_(bias)
    return layer


FILTER = [[[[1.0, 2.0], [3.0, 4.0]]]]


def bright_pixel(y: int, x: int) -> Tensor:
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, y, x] = 1.0
    return image


def projection(
    model: nn.Module, layer: str, image: Tensor, *position: int, unit: int = 0
) -> Tensor:
    return project(deconvnet_of(model), layer, image, unit, [Activation(0, 0.0, position)])[0]


def test_the_filter_is_projected_to_the_position_of_the_maximum() -> None:
    model = nn.Sequential(convolution(FILTER, bias=0.5), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    found = projection(model, "2", bright_pixel(2, 2), 0, 0)
    # The map is highest at (1, 1), 4 of the filter and 0.5 of the bias; the other three windows of
    # the pool hold something too, but only this unit counts.
    expected = torch.zeros(1, 5, 5)
    expected[0, 1:3, 1:3] = 4.5 * torch.tensor(FILTER[0][0])
    assert torch.equal(found, expected)


def test_negative_values_on_the_way_back_are_dropped() -> None:
    # Of two maps the second takes part with a weight of −1: plain gradients would subtract it.
    first = convolution([[[[1.0]]], [[[2.0]]]])
    second = convolution([[[[1.0]], [[-0.25]]]])
    model = nn.Sequential(first, nn.ReLU(), second)
    found = projection(model, "2", bright_pixel(3, 1), 3, 1)
    assert found[0, 3, 1] == 0.5  # the activation, 1 − 2/4, through the first map alone
    assert found.count_nonzero() == 1


def test_a_deep_projection_equals_transposed_filters_and_switches_by_hand() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3, stride=2, groups=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=3),
    )  # fmt: skip
    image = torch.randn(1, 3, 32, 32)
    a = F.relu(model[0](image))
    b, first_switches = F.max_pool2d(a, 2, return_indices=True)
    c = F.relu(model[3](b))
    d, second_switches = F.max_pool2d(c, 3, 3, return_indices=True)
    assert d[0, 4, 1, 0] > 0

    one = torch.zeros_like(d)
    one[0, 4, 1, 0] = d[0, 4, 1, 0]
    back = F.max_unpool2d(one, second_switches, 3, 3, output_size=c.shape[2:]).relu()
    back = F.conv_transpose2d(back, model[3].weight, stride=2, groups=2, output_padding=1)
    back = F.max_unpool2d(back, first_switches, 2).relu()
    back = F.conv_transpose2d(back, model[0].weight, padding=1)
    torch.testing.assert_close(projection(model, "5", image, 1, 0, unit=4), back[0])

    image.requires_grad_()
    model(image)[0, 4, 1, 0].square().div(2).backward()
    assert not torch.allclose(image.grad, back, atol=1e-3)  # the gradient is another thing


def test_values_add_up_where_windows_share_their_maximum() -> None:
    model = nn.Sequential(nn.MaxPool2d(3, stride=2), convolution([[[[1.0, 10.0]]]]))
    found = projection(model, "1", bright_pixel(2, 2), 0, 0)
    assert found[0, 2, 2] == 11.0 * (1.0 + 10.0)


def test_response_normalization_passes_values_back_unchanged() -> None:
    model = nn.Sequential(convolution([[[[1.0]]]]), ResponseNorm(5, alpha=4.0, k=1.0))
    scaled = projection(model, "1", 2 * bright_pixel(1, 1), 1, 1)
    assert 0 < scaled[0, 1, 1] < 2  # the unit's own value, and no derivative of the norm


def test_an_inactive_unit_projects_nothing() -> None:
    model = nn.Sequential(convolution([[[[-1.0]]]]))
    assert projection(model, "0", bright_pixel(1, 1), 1, 1).count_nonzero() == 0


def test_the_network_itself_is_left_unchanged() -> None:
    model = nn.Sequential(convolution(FILTER), nn.ReLU(inplace=True)).train()
    deconvnet_of(model)
    assert isinstance(model[1], nn.ReLU)
    assert model.training
    assert model[0].weight.requires_grad


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("alexnet_code", "conv5"),
        ("googlenet", "inception_3b.conv3x3.conv"),
        ("resnet18_option_a", "conv5_x.1.conv2"),
    ],
)
def test_every_kind_of_network_has_a_projection(name: str, layer: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name](10).eval()
    image = torch.randn(1, 3, *[model.input_shape.min_size] * 2)
    maps = layer_output(model, layer, image)[0]
    unit, *position = (int(place) for place in torch.unravel_index(maps.argmax(), maps.shape))
    found = projection(model, layer, image, *position, unit=unit)
    assert found.isfinite().all()
    assert found.any()


def test_a_network_without_relus_is_refused() -> None:
    with pytest.raises(UserError, match=r"no projection through layers\.1 \(Squash\)"):
        deconvnet_of(NETWORKS["lenet5"](10))
