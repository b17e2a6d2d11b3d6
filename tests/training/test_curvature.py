"""Second derivatives against those of autograd, and against the sums of the paper's appendix."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call

from pipeline.config import optimization
from pipeline.models.lenet import (
    PartialConvolution,
    RadialBasisOutput,
    Squash,
    Subsampling,
    lenet5,
)
from pipeline.models.zoo import NETWORKS
from pipeline.runtime.errors import UserError
from pipeline.training.curvature import chain_of, summed_curvature
from pipeline.training.loss import summed_loss

ENTROPY, MAP = optimization.LossConfig(), optimization.LossConfig(kind="map")


def exact_diagonal(
    model: nn.Module, loss: optimization.LossConfig, images: Tensor, labels: Tensor, name: str
) -> Tensor:
    parameter = model.get_parameter(name).detach()

    def of(value: Tensor) -> Tensor:
        return summed_loss(loss, functional_call(model, {name: value}, (images,)), labels)

    size = parameter.numel()
    return hessian(of, parameter).reshape(size, size).diagonal().reshape(parameter.shape)


@pytest.mark.parametrize(
    ("loss", "layers"),
    [
        (ENTROPY, [nn.Flatten(), nn.Linear(12, 4)]),
        (MAP, [nn.Flatten(), nn.Linear(12, 84), RadialBasisOutput(4)]),
        (optimization.LossConfig(label_smoothing=0.2), [nn.Conv2d(1, 4, (3, 4)), nn.Flatten()]),
        (ENTROPY, [nn.Conv2d(1, 4, (3, 3)), nn.MaxPool2d((1, 2)), nn.Flatten()]),
    ],
    ids=["cross-entropy", "map", "smoothed", "pooled"],
)
def test_derivatives_of_the_last_layers_are_exact(
    loss: optimization.LossConfig, layers: list[nn.Module]
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*layers)
    images, labels = 0.1 * torch.randn(5, 1, 3, 4), torch.tensor([0, 1, 2, 3, 3])
    found = summed_curvature(chain_of(model), loss, images, labels)
    assert len(found) == 2
    for name, parameter in model.named_parameters():
        expected = exact_diagonal(model, loss, images, labels, name)
        torch.testing.assert_close(found[parameter], expected, rtol=1e-4, atol=1e-5)
        assert found[parameter].min() >= 0


def test_derivatives_pass_through_relu() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(inplace=True), nn.Linear(6, 2, bias=False))
    with torch.no_grad():
        model[2].weight.copy_(torch.eye(6)[:2])  # so that nothing crosses
    images, labels = torch.randn(8, 3), torch.arange(8) % 2
    found = summed_curvature(chain_of(model), ENTROPY, images, labels)
    expected = exact_diagonal(model, ENTROPY, images, labels, "0.weight")
    torch.testing.assert_close(found[model[0].weight], expected)


def test_derivatives_pass_through_the_layers_of_lenet5() -> None:
    """Jacobians, squared entry by entry, and f'(a)²: the sums of the appendix, written out."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), Squash(), Subsampling(2), Squash(),  # 2×10×10, 2×5×5
        PartialConvolution(2, ((0,), (0, 1)), 3), Squash(),  # 2×3×3
        nn.Flatten(), nn.Linear(18, 84), Squash(), RadialBasisOutput(10),
    )  # fmt: skip
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    image, label = torch.randn(1, 1, 12, 12), torch.tensor([7])
    found = summed_curvature(chain_of(model), MAP, image, label)
    *layers, output = model
    inputs = [image]
    for layer in layers:
        inputs.append(layer(inputs[-1]).detach())
    second = hessian(lambda codes: summed_loss(MAP, output(codes), label), inputs.pop())
    curvature = second.reshape(84, 84).diagonal()
    for layer, x in zip(reversed(layers), reversed(inputs), strict=True):
        if isinstance(layer, Squash):
            curvature = curvature * (1.7159 * 2 / 3 / torch.cosh(x.flatten() * 2 / 3) ** 2) ** 2
            continue
        for name, parameter in layer.named_parameters():
            if name == "coefficient":  # four connections of each unit
                sums = 4 * nn.functional.avg_pool2d(x * x, 2)
                expected = (sums * curvature.reshape(sums.shape)).sum((0, 2, 3))
            else:
                by = jacobian(
                    lambda value, layer=layer, name=name, x=x: functional_call(
                        layer, {name: value}, (x,)
                    ),
                    parameter.detach(),
                )
                expected = curvature @ by.reshape(len(curvature), -1) ** 2
            got = found[parameter].flatten()
            torch.testing.assert_close(got, expected.flatten(), rtol=1e-4, atol=0)
        if isinstance(layer, Subsampling):
            by = layer.coefficient.detach().square() * curvature.reshape(layer(x).shape)
            curvature = by.repeat_interleave(2, 2).repeat_interleave(2, 3).flatten()
        else:
            by = jacobian(layer, x).reshape(len(curvature), -1)
            curvature = curvature @ by**2
    assert len(found) == len(list(model.parameters()))


def test_derivatives_are_summed_over_images() -> None:
    torch.manual_seed(0)
    layers = chain_of(lenet5(10))
    images, labels = torch.randn(6, 1, 32, 32), torch.arange(6)
    together = summed_curvature(layers, MAP, images, labels)
    parts = [
        summed_curvature(layers, MAP, images[rows], labels[rows]) for rows in ([0, 1], [2, 3, 4, 5])
    ]
    for parameter, curvature in together.items():
        torch.testing.assert_close(sum(part[parameter] for part in parts), curvature)


@pytest.mark.parametrize("name", ["lenet5", "lenet5_modern", "mnist1d_conv", "mnist1d_dense"])
def test_networks_that_are_a_chain_are_accepted(name: str) -> None:
    model = NETWORKS[name](10)
    shape = model.input_shape
    images = torch.randn(2, 1, *(shape.size,) * shape.dimensions)
    loss = MAP if name == "lenet5" else ENTROPY
    found = summed_curvature(chain_of(model), loss, images, torch.tensor([3, 9]))
    assert {p for p, curvature in found.items() if curvature.max() > 0} == set(model.parameters())


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: NETWORKS["resnet18"](10), "which those of ResNet are not"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.Dropout()), "layer 1 is Dropout"),
        (lambda: nn.Sequential(nn.Sequential(nn.ReLU())), "layer 0 is Sequential"),
    ],
    ids=["residual", "dropout", "nested"],
)
def test_other_networks_are_refused(make: Callable[[], nn.Module], problem: str) -> None:
    with (
        torch.device("meta"),
        pytest.raises(UserError, match=f"{problem}; use optimizer.kind: sgd"),
    ):
        chain_of(make())
