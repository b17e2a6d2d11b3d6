"""Put the layers of a file of another project in their places in a network of the zoo.

A format reads its file as a list of `FileLayer`. A layer's place is told by its name there, for
each network that the format knows: a `Place`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.models.classifier import ImageClassifier
from pipeline.models.response_norm import ResponseNorm
from pipeline.models.zoo import NETWORKS
from pipeline.pretrained.batch_norm_values import BatchNormValues
from pipeline.pretrained.network_graph import pair
from pipeline.pretrained.preprocessing import Preprocessing
from pipeline.pretrained.pretrained_weights import (
    AUXILIARY,
    PretrainedWeights,
    fit_weights,
    weighted_layers,
)
from pipeline.runtime.errors import UserError

Array = NDArray[Any]
Kind = Literal["convolution", "linear", "norm", "pooling", "response norm"]


@dataclass(frozen=True)
class FileLayer:
    """A layer as a file has it; its arrays may still lie in the file.

    The weights of a convolution are (out, in, h, w), of a linear layer (out, in), of a batch norm
    its γ. Mean and variance of a batch norm are `factor` times the arrays. `settings` are those
    that the file states, by the names of `_settings`.
    """

    name: str
    kind: Kind
    weight: Array | None = None
    bias: Array | None = None
    mean: Array | None = None
    variance: Array | None = None
    factor: float = 1.0
    eps: float = 1e-5
    settings: Mapping[str, object] = field(default_factory=dict)


# The name in the file of a layer of a network, by its name in the zoo.
Place = Callable[[str], str]


def matched(
    file: str,
    layers: Sequence[FileLayer],
    places: Mapping[str, Place],
    network: str | None,
    preprocessing: Callable[[str], Preprocessing],
    remarks: Sequence[str] = (),
) -> PretrainedWeights:
    """Return the weights of the network of `places` whose layers these are, or of `network`.

    Raises `UserError` where no network has them, or more than one, and for a layer that doesn't
    fit, by its name. Arrays are copied once their shapes are known to fit.
    """
    if network is not None and network not in places:
        raise UserError(f"{file}: files of this format are read of {', '.join(places)}")
    name = network or _recognized(file, layers, places)
    model = _empty(name, layers, places[name])
    if fault := _misfit(name, model, layers, places[name]):
        raise UserError(f"{file}: {fault}; are these weights of another network than {name}?")
    weights = _copied(model, {layer.name: layer for layer in layers}, places[name])
    fitted = fit_weights(name, weights, file, {})
    return replace(fitted, preprocessing=preprocessing(name), remarks=(*remarks, *fitted.remarks))


def with_red_first(layers: Sequence[FileLayer]) -> list[FileLayer]:
    """Turn the first convolution from BGR to RGB."""
    first = next((layer for layer in layers if layer.kind == "convolution"), None)
    if first is None or first.weight is None or first.weight.ndim != 4:
        return list(layers)
    turned = replace(first, weight=first.weight[:, ::-1])
    return [turned if layer is first else layer for layer in layers]


def _recognized(file: str, layers: Sequence[FileLayer], places: Mapping[str, Place]) -> str:
    there = {layer.name for layer in layers if layer.weight is not None}
    expected = {name: _names(name, place) for name, place in places.items()}
    named = [
        name
        for name, (needed, optional) in expected.items()
        if needed <= there <= needed | optional
    ]
    faults = {
        name: _misfit(name, _empty(name, layers, places[name]), layers, places[name])
        for name in named
    }
    fitting = [name for name, fault in faults.items() if not fault]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UserError(f"{file}: say with --network which it is of: {' or '.join(fitting)}")
    if faults:
        name, fault = next(iter(faults.items()))
        raise UserError(f"{file}: named like {name}, but {fault}")
    near = max(expected, key=lambda name: len(expected[name][0] & there))
    needed, optional = expected[near]
    odd = [f"it lacks {name}" for name in sorted(needed - there)]
    odd += [f"it has {name} besides" for name in sorted(there - needed - optional)]
    raise UserError(
        f"{file}: has the layers of no network among {', '.join(places)}; of {near}, {odd[0]}"
    )


@cache
def weighted_names(network: str) -> tuple[str, ...]:
    """Return the names of a network's layers with weights, in the zoo's order."""
    with torch.device("meta"):
        return tuple(weighted_layers(NETWORKS[network](1000)))


def _names(network: str, place: Place) -> tuple[set[str], set[str]]:
    """Return the names in the file of the layers that are needed, and of those that may lack."""
    names: tuple[set[str], set[str]] = set(), set()
    for name in weighted_names(network):
        names[name.startswith(AUXILIARY)].add(place(name))
    return names


def _empty(name: str, layers: Sequence[FileLayer], place: Place) -> ImageClassifier:
    """Return the network without memory, for as many classes and channels as the file has."""
    found = {layer.name: layer.weight for layer in layers if layer.weight is not None}
    names = weighted_names(name)
    first, last = found.get(place(names[0])), found.get(place(names[-1]))
    num_classes = len(last) if last is not None and last.ndim and last.size else 1000
    num_channels = first.shape[1] if first is not None and first.ndim > 1 and first.size else 3
    with torch.device("meta"):
        return NETWORKS[name](num_classes, num_channels)


def _misfit(network: str, model: ImageClassifier, layers: Sequence[FileLayer], place: Place) -> str:
    """Return what doesn't fit, or nothing."""
    found = {layer.name: layer for layer in layers if layer.weight is not None}
    needed, optional = _names(network, place)
    has_optional = bool(optional & found.keys())
    for name in found:
        if name not in needed | optional:
            return f"{name} has no place"
    for own, module in weighted_layers(model).items():
        name = place(own)
        if name in optional and not has_optional:
            continue
        if name not in found:
            return f"{name} is missing"
        if fault := _shape_fault(found[name], module) or _setting_fault(found[name], module):
            return f"{name} {fault}"
    return _order_fault(model, layers)


def _shape_fault(layer: FileLayer, module: nn.Module) -> str:
    """Compare the arrays of a layer with a module's; a kernel of a whole map may be linear here."""
    for key, array in _arrays(layer).items():
        own = module.state_dict().get(key)
        if own is None:
            if key == "bias" and array is not None and not array.any():
                continue  # a bias of zeros is none
            if array is not None:
                return f"has a {key}, here there is none"
        elif array is None:
            return f"has no {key}"
        elif array.shape != tuple(own.shape) and not (
            isinstance(module, nn.Linear)
            and key == "weight"
            and array.ndim
            and array.shape[0] == own.shape[0]
            and array.size == own.numel()
        ):
            there, here = (" × ".join(map(str, shape)) for shape in (array.shape, own.shape))
            return f"has a {key} of {there}, here {here}"
    return ""


def _arrays(layer: FileLayer) -> dict[str, Array | None]:
    arrays = {"weight": layer.weight, "bias": layer.bias}
    if layer.kind == "norm":
        arrays |= {"running_mean": layer.mean, "running_var": layer.variance}
    return arrays


def _setting_fault(layer: FileLayer, module: nn.Module) -> str:
    for key, here in _settings(module).items():
        there = layer.settings.get(key, here)
        same = (
            math.isclose(there, here, rel_tol=1e-5) if isinstance(there, float) else there == here
        )
        if not same:
            return f"has {key} {there}, here {here}"
    return ""


def _settings(module: nn.Module) -> dict[str, Any]:
    match module:
        case nn.Conv2d():
            return {"stride": module.stride, "padding": module.padding, "groups": module.groups}
        case nn.MaxPool2d():
            return {"kernel": pair(module.kernel_size), "stride": pair(module.stride)}
        case ResponseNorm():
            return {"size": module.size, "alpha": module.alpha, "k": module.k}
        case _:
            return {}


_KINDS: dict[type[nn.Module], Kind] = {
    nn.Conv2d: "convolution",
    nn.Linear: "linear",
    nn.MaxPool2d: "pooling",
    ResponseNorm: "response norm",
}


def _order_fault(model: ImageClassifier, layers: Sequence[FileLayer]) -> str:
    """Compare the order of all layers of a network that is one chain, if the file has them all."""
    children = list(model.children())
    if any(True for child in children for _ in child.children()):
        return ""
    own = [(_KINDS[type(child)], child) for child in children if type(child) in _KINDS]
    if not any(layer.kind == "pooling" for layer in layers):
        return ""  # weights alone
    for (kind, module), layer in zip(own, layers, strict=False):
        same = layer.kind == kind or (kind == "linear" and layer.kind == "convolution")
        if not same:
            return f"{layer.name} is a {layer.kind} where a {kind} is here"
        if fault := _setting_fault(layer, module):
            return f"{layer.name} {fault}"
    if len(own) != len(layers):
        return f"it has {len(layers)} layers, here {len(own)}"
    return ""


def _copied(
    model: ImageClassifier, found: Mapping[str, FileLayer], place: Place
) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for own, module in weighted_layers(model).items():
        if place(own) not in found:
            continue
        layer, here = found[place(own)], module.state_dict()
        values = {
            key: torch.from_numpy(np.array(array, np.float32).reshape(tuple(here[key].shape)))
            for key, array in _arrays(layer).items()
            if array is not None and key in here
        }
        if isinstance(module, nn.BatchNorm2d):
            mean, variance = (layer.factor * values[key] for key in ("running_mean", "running_var"))
            norm = BatchNormValues(values["weight"], values["bias"], mean, variance, layer.eps)
            values = norm.state(module.eps)
        weights |= {f"{own}.{key}": value for key, value in values.items()}
    return weights
