"""A network for squares of one size, applied to whole images of any size at once.

Sermanet et al. (OverFeat, ICLR 2014, §3.5), VGG §3.2, ResNet §3.4: fully connected layers become
convolutions, and a global pooling a sliding one, so that a larger image gives a map of logits, one
for each place of the network's own square on it. Weights are shared, not copied.

The logits at a position equal the network's on the square there except for border effects: inside
a larger image, convolutions read pixels where the square alone has zero padding.
"""

import copy
import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.classifier import modes_restored
from pipeline.runtime.errors import UserError


def fully_convolutional(model: nn.Module, size: int) -> nn.Module:
    """Return `model`, in evaluation mode, as a map from images to logits at every position.

    Images are float (n, c, h, w), each side at least `size`, the side of the squares that the
    network was trained on; logits are (n, num_classes, positions down, positions across). Images of
    `size` have one position, with the network's own logits. Raises `UserError` for a network whose
    last layers aren't convolutions or poolings, then `Flatten`, then `Linear`; nor a convolution
    that gives logits, and perhaps their mean over a map.
    """
    if not any(isinstance(layer, nn.Conv2d) for layer in model.modules()):
        raise _no_map(model)
    if not any(isinstance(layer, nn.Linear) for layer in model.modules()):
        return _already_convolutional(model, size).eval()
    dense = copy.copy(model)  # shares the parameters; only direct children are replaced
    dense._modules = dict(model._modules)
    input_shapes = _inputs_of_last_layers(model, size)
    replaced = {
        name: _sliding(layer, input_shapes[name])
        for name, layer in model.named_children()
        if name in input_shapes and isinstance(layer, nn.AdaptiveAvgPool2d | nn.Flatten | nn.Linear)
    }
    if not any(isinstance(layer, nn.Conv2d) for layer in replaced.values()):
        raise _no_map(model)
    dense._modules.update(replaced)
    return dense.eval()


class LogitMap(nn.Module):
    """A network that averages a map of logits, which gives means over windows of it instead.

    `pooling` is the layer that averages, `window` the height and width of the map of one square.
    """

    def __init__(self, model: nn.Module, pooling: nn.Module, window: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        self._pooling = [pooling]  # not a layer of this module too
        self._window = window

    def forward(self, images: Tensor) -> Tensor:
        maps: list[Tensor] = []
        handle = self._pooling[0].register_forward_pre_hook(lambda _, inputs: maps.extend(inputs))
        try:
            self.model(images)
        finally:
            handle.remove()
        return F.avg_pool2d(maps[-1], self._window, stride=1)


def _already_convolutional(model: nn.Module, size: int) -> nn.Module:
    """Return a network without `Linear`, which gives a map of logits or their mean over it."""
    averaged: list[tuple[nn.Module, Tensor, Tensor]] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        averaged.append((layer, inputs[0], output))

    poolings = [layer for layer in model.modules() if isinstance(layer, nn.AdaptiveAvgPool2d)]
    handles = [layer.register_forward_hook(record) for layer in poolings]
    try:
        logits = _logits_of_square(model, size)
    finally:
        for handle in handles:
            handle.remove()
    for pooling, seen, mean in averaged[-1:]:
        if torch.equal(mean.flatten(1), logits.flatten(1)):
            return LogitMap(model, pooling, (seen.shape[2], seen.shape[3]))
    if logits.dim() == 4:
        return model
    raise _no_map(model)


def _no_map(model: nn.Module) -> UserError:
    return UserError(
        f"{type(model).__name__} can't be made fully convolutional; choose a protocol of crops"
    )


def _inputs_of_last_layers(model: nn.Module, size: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the inputs of the direct children, by their names, for one square.

    For the first `Linear` after `Flatten`, which joins the positions, it is the shape of the map
    before it was flattened; for later ones, of a map with one position.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    flattened: list[tuple[int, ...]] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], name: str) -> None:
        shape = tuple(inputs[0].shape[1:])
        if isinstance(layer, nn.Flatten):
            flattened.append(shape)
        if isinstance(layer, nn.Linear):
            shape = flattened.pop() if flattened else (*shape, 1, 1)
        shapes[name] = shape

    handles = [
        layer.register_forward_pre_hook(partial(record, name=name))
        for name, layer in model.named_children()
    ]
    try:
        _logits_of_square(model, size)
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def _logits_of_square(model: nn.Module, size: int) -> Tensor:
    """Return what the network, in evaluation mode, says of one square."""
    first = next(model.parameters())
    channels = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d)).in_channels
    shape = (1, channels, size, size)
    square = torch.linspace(-1, 1, math.prod(shape), device=first.device).reshape(shape)
    with modes_restored(model), torch.inference_mode():
        logits: Tensor = model.eval()(square)
    return logits


def _sliding(layer: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Return a layer that applies `layer`, which takes maps of `shape`, to every such window."""
    if isinstance(layer, nn.Flatten):
        return nn.Identity()
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return nn.AvgPool2d((shape[1], shape[2]), stride=1)
    assert isinstance(layer, nn.Linear)
    channels, height, width = shape
    with torch.device("meta"):  # no new weights are allocated
        convolution = nn.Conv2d(
            channels, layer.out_features, (height, width), bias=layer.bias is not None
        )
    kernels = layer.weight.view(layer.out_features, channels, height, width)
    convolution.weight = nn.Parameter(kernels, requires_grad=False)
    convolution.bias = layer.bias
    return convolution
