"""What a network is made of: a table of its layers, with shapes, parameters and multiply-adds."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """One layer as it was called: `output_shape` is without the batch.

    `multiply_adds` counts those of convolutions and fully connected layers for one image, without
    biases, as papers do under the name FLOPs; all else counts 0.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Anatomy:
    """The layers of a network in the order they are called."""

    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        return sum(layer.multiply_adds for layer in self.layers)


def dissect(model: nn.Module, input_shape: tuple[int, int, int]) -> Anatomy:
    """Run `model` on one zero image of `input_shape` (c, h, w) and list its layers.

    Only modules without children are layers; one that is called twice is listed twice, its
    parameters the first time. The model may stand on the meta device, and is left as it was.
    """
    layers: list[Layer] = []
    names = {module: name for name, module in model.named_modules()}
    seen: set[nn.Module] = set()

    def record(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        count = 0 if module in seen else sum(p.numel() for p in module.parameters())
        seen.add(module)
        layers.append(
            Layer(
                name=names[module],
                kind=type(module).__name__,
                output_shape=tuple(output.shape[1:]),
                parameters=count,
                multiply_adds=_multiply_adds(module, output),
            )
        )

    leaves = [module for module in names if not any(module.children())]
    hooks = [leaf.register_forward_hook(record) for leaf in leaves]
    training = {module: module.training for module in names}
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *input_shape, device=device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, was_training in training.items():
            module.training = was_training
    return Anatomy(tuple(layers))


def _multiply_adds(module: nn.Module, output: Tensor) -> int:
    """A weight of one output channel or unit is multiplied once for each of its outputs."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
        return output.numel() * module.weight[0].numel()
    return 0
