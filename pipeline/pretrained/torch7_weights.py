"""Load the networks of fb.resnet.torch, and the DenseNets of their authors: Torch7's `.t7` files.

Their layers have no names; they are listed in the order in which the zoo lists them, each block's
own before its shortcut's. Their bottlenecks are V1.5.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.pretrained.layer_matching import (
    Array,
    FileLayer,
    Place,
    matched,
    weighted_names,
)
from pipeline.pretrained.preprocessing import Preprocessing
from pipeline.pretrained.pretrained_weights import PretrainedWeights
from pipeline.pretrained.torch7_file import TorchObject, read_torch7_file
from pipeline.runtime.errors import UserError

_NETWORKS = (
    *("resnet18", "resnet34", "resnet50_v1_5", "resnet101_v1_5", "resnet152_v1_5"),
    *("resnet50", "resnet101", "resnet152"),
    *("densenet121", "densenet161", "densenet169", "densenet201", "densenet264"),
)
# Of a pixel of 0 to 1, as torchvision, which took mean and deviation from here.
_PREPROCESSING = Preprocessing(interpolation="bicubic")


def read_torch7(file: Path, network: str | None, *, ema: bool = False) -> PretrainedWeights:
    """Read a `.t7` file; see `formats.PretrainedReader`. Such files have no moving average."""
    if ema:
        raise UserError(f"{file}: a Torch7 file has no moving average of weights; leave out --ema")
    content = read_torch7_file(file)
    if isinstance(content, dict):  # of a training: the network and more
        content = content.get("model", content.get("net"))
    if not isinstance(content, TorchObject):
        raise UserError(f"{file}: holds no network of Torch7 (an object of nn, or a table's model)")
    try:
        layers = list(_file_layers(content, "", (), str(file)))
    except (ArithmeticError, ValueError) as error:
        raise UserError(f"{file}: isn't as Torch7 writes networks ({error})") from None
    names = [layer.name for layer in layers if layer.weight is not None]
    places = {name: _place(name, names) for name in _NETWORKS}
    return matched(str(file), layers, places, network, lambda _: _PREPROCESSING)


def _place(network: str, names: list[str]) -> Place:
    places = dict(zip(weighted_names(network), names, strict=False))
    return lambda name: places.get(name, f"a layer for {name}")


def _file_layers(
    module: TorchObject, path: str, above: tuple[int, ...], file: str
) -> Iterator[FileLayer]:
    """Return the layers with weights, in their order; a name is the way to one: "5.1.2"."""
    if id(module) in above:
        raise UserError(f"{file}: module {path} contains itself")
    inner = module.fields.get("modules")
    if isinstance(inner, dict):
        for key in sorted(key for key in inner if isinstance(key, float)):
            if isinstance(inner[key], TorchObject):
                name = f"{path}.{key:g}" if path else f"{key:g}"
                yield from _file_layers(inner[key], name, (*above, id(module)), file)
        return
    if layer := _file_layer(module, f"module {path}"):
        yield layer


def _file_layer(module: TorchObject, name: str) -> FileLayer | None:
    fields = module.fields
    weight, bias = _array(fields, "weight"), _array(fields, "bias")
    name = f"{name} ({module.kind})"
    if weight is None:
        return None
    match module.kind.rpartition(".")[2]:
        case "SpatialConvolution" | "SpatialConvolutionMM":
            kernel = _sides(fields, "kH", "kW")
            if weight.ndim == 2 and weight.shape[1] % max(np.prod(kernel), 1) == 0:
                weight = weight.reshape(len(weight), -1, *kernel)
            settings = {
                "stride": _sides(fields, "dH", "dW"),
                "padding": _sides(fields, "padH", "padW", default=0),
                "groups": int(_number(fields, "groups", 1)),
            }
            return FileLayer(name, "convolution", weight, bias, settings=settings)
        case "SpatialBatchNormalization":
            mean, variance = _array(fields, "running_mean"), _array(fields, "running_var")
            eps = _number(fields, "eps", 1e-5)
            return FileLayer(name, "norm", weight, bias, mean, variance, eps=eps)
        case "Linear":
            return FileLayer(name, "linear", weight, bias)
    return FileLayer(name, "linear", weight, bias)  # has no place, and is named


def _array(fields: Mapping[Any, Any], name: str) -> Array | None:
    value = fields.get(name)
    return value if isinstance(value, np.ndarray) and value.size else None


def _number(fields: Mapping[Any, Any], name: str, default: float) -> float:
    value = fields.get(name)
    return value if isinstance(value, float) else default


def _sides(fields: Mapping[Any, Any], *names: str, default: int = 1) -> tuple[int, ...]:
    return tuple(int(_number(fields, name, default)) for name in names)
