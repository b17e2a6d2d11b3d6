"""Second derivatives of the loss by each parameter, as LeNet-5's training estimates them.

LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition" (1998),
Appendix C: only diagonal terms are passed backward, with squared weights, and second derivatives of
activations are left out (Gauss–Newton), so that no estimate is below 0. That of a shared weight is
the sum over its connections.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

from pipeline.config import optimization
from pipeline.models.lenet import RadialBasisOutput, Squash, Subsampling
from pipeline.runtime.errors import UserError
from pipeline.training.loss import summed_loss

# Their outputs are sums of inputs, each times a parameter or 1, and biases.
_SUMS = (nn.Conv1d, nn.Conv2d, nn.Linear, Subsampling, nn.Flatten)
_ACTIVATIONS = (Squash, nn.ReLU)
_KNOWN = (*_SUMS, *_ACTIVATIONS, nn.MaxPool2d, RadialBasisOutput)
_REFUSAL = (
    "optimizer: second derivatives are known of convolutions, linear layers, squashing, ReLU and "
    "maximum pooling, one after the other"
)
_REMEDY = "use optimizer.kind: sgd"


def chain_of(model: nn.Module) -> list[nn.Module]:
    """Return the layers of `model`: an `nn.Sequential`, or a module with one as its only child.

    Raises `UserError` if the layers are no chain, or of a kind that this module doesn't know.
    """
    chain, *others = (model,) if isinstance(model, nn.Sequential) else model.children()
    if others or not isinstance(chain, nn.Sequential):
        raise UserError(f"{_REFUSAL}, which those of {type(model).__name__} are not; {_REMEDY}")
    for name, layer in chain.named_children():
        if not isinstance(layer, _KNOWN):
            raise UserError(f"{_REFUSAL}; layer {name} is {type(layer).__name__}; {_REMEDY}")
    return list(chain)


def summed_curvature(
    layers: list[nn.Module], loss: optimization.LossConfig, images: Tensor, labels: Tensor
) -> dict[nn.Parameter, Tensor]:
    """Return, for each parameter, the second derivative of each image's loss, summed over images.

    `layers` are those of `chain_of`, `images` (n, c, h, w), `labels` (n,).
    """
    *before, last = layers
    head: nn.Module = last
    if not isinstance(last, RadialBasisOutput):
        before, head = layers, nn.Identity()
    inputs = [images]
    with torch.no_grad():
        for layer in before:
            inputs.append(layer(inputs[-1].clone()))  # a copy, as some work in place
    curvature = _of_loss(head, loss, inputs.pop(), labels)
    by_parameter: dict[nn.Parameter, Tensor] = {}
    for layer, input in zip(reversed(before), reversed(inputs), strict=True):
        if isinstance(layer, _SUMS):
            curvature, *own = _through_sum(layer, input, curvature)
            by_parameter.update(zip(layer.parameters(), own, strict=True))
        else:
            curvature = _through_function(layer, input, curvature)
    return by_parameter


def _of_loss(
    head: nn.Module, loss: optimization.LossConfig, outputs: Tensor, labels: Tensor
) -> Tensor:
    """Return the exact second derivatives of each image's loss by `outputs`, (n, k), as (n, k)."""

    def of_one(output: Tensor, label: Tensor) -> Tensor:
        return summed_loss(loss, head(output[None]), label[None])

    diagonal = vmap(lambda output, label: jacrev(grad(of_one))(output, label).diagonal())
    return diagonal(outputs, labels).detach()


def _through_sum(layer: nn.Module, input: Tensor, curvature: Tensor) -> tuple[Tensor, ...]:
    # Squares in place of values and parameters turn the chain rule of first derivatives into that
    # of second ones: a = Σ w x gives E″(x) = w² E″(a) and E″(w) = x² E″(a).
    squares = {
        name: parameter.detach().square().requires_grad_()
        for name, parameter in layer.named_parameters()
    }
    squared = input.square().requires_grad_()
    output = functional_call(layer, squares, (squared,))
    return torch.autograd.grad(output, [squared, *squares.values()], curvature)


def _through_function(layer: nn.Module, input: Tensor, curvature: Tensor) -> Tensor:
    source = input.clone().requires_grad_()
    output = layer(source * 1)
    if isinstance(layer, nn.MaxPool2d):  # a derivative is 1 or 0, and its own square
        return torch.autograd.grad(output, source, curvature)[0]
    (slope,) = torch.autograd.grad(output, source, torch.ones_like(output))
    return curvature * slope.square()
