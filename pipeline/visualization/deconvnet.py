"""The projection of a unit's activation back to the pixels that caused it.

Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks" (ECCV 2014), §2.1. One
activation is kept, all others of its layer are set to zero, and the way back through the network is

    maximum pooling    each value goes to the position of the maximum (the "switches"); where
                       windows overlap and share it, the values add up
    ReLU               negative values on the way back become 0, whatever they were forward
    convolution        the same filters, transposed; without biases

These are PyTorch's own gradients but for the ReLU, so one backward pass suffices, and branches and
shortcuts add up correctly. The paper doesn't mention response normalization, which passes values
back unchanged here; batch normalization, which is a scaling when tested, scales.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.response_norm import ResponseNorm, SameMapNorm
from pipeline.runtime.errors import UserError
from pipeline.visualization.activations import Activation, layer_output

# Layers that are linear on the way back but for the ReLU, or without effect in testing.
_SUPPORTED = (
    *(nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d),
    *(nn.AdaptiveAvgPool2d, nn.Dropout, nn.Flatten, nn.Identity, nn.ZeroPad2d, nn.ConstantPad3d),
    *(ResponseNorm, SameMapNorm),
)


def deconvnet_of(model: nn.Module) -> nn.Module:
    """Return a copy of `model`, as it is tested, whose gradients are the projections.

    Raises `UserError` for a layer without a projection here, such as those of LeNet-5 of 1998.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for name, layer in list(model.named_modules()):
        if not any(layer.children()) and not isinstance(layer, _SUPPORTED):
            raise UserError(
                f"no projection through {name} ({type(layer).__name__}): only networks of "
                "convolutions, ReLUs and pooling have one"
            )
        match layer:
            case nn.ReLU():
                model.set_submodule(name, _RectifiedBackwards())
            case ResponseNorm() | SameMapNorm():
                model.set_submodule(name, _UnchangedBackwards(layer))
    return model


def project(
    model: nn.Module, layer: str, images: Tensor, unit: int, at: list[Activation]
) -> Tensor:
    """Project `unit` of `layer` back to the pixels, for image `i` from the position of `at[i]`.

    `model` is made by `deconvnet_of`; images (n, c, h, w). Returns the same shape.
    """
    images = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        maps = layer_output(model, layer, images)
        chosen = [maps[i, unit, *activation.position] for i, activation in enumerate(at)]
        # The gradient of half the square of a value is the value, here rectified.
        (projection,) = torch.autograd.grad(
            torch.stack(chosen).clamp(min=0).square().sum() / 2, images
        )
    return projection


class _Rectify(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].clamp(min=0)


class _RectifiedBackwards(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return _Rectify.apply(values)


class _UnchangedBackwards(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, values: Tensor) -> Tensor:
        return values + (self.layer(values) - values).detach()
