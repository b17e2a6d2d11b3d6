"""Load the networks that MatConvNet released, of which many were Caffe's: `.mat` files.

A file holds a chain ("SimpleNN": a cell of layers with their weights) or a graph ("DagNN": layers
that name their parameters). Filters are height × width × in × out and take red first. A batch norm
keeps the deviation √(variance + ε) in place of the variance.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.pretrained.caffe_weights import PLACES as CAFFE_PLACES
from pipeline.pretrained.layer_matching import Array, FileLayer, Place, matched
from pipeline.pretrained.matlab_file import read_matlab
from pipeline.pretrained.preprocessing import Preprocessing
from pipeline.pretrained.pretrained_weights import PretrainedWeights
from pipeline.runtime.errors import UserError

_MODULES = ["3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"]
_BRANCHES = {
    "conv1x1": "out0",
    "reduce3x3": "reduction1",
    "conv3x3": "out1",
    "reduce5x5": "reduction2",
    "conv5x5": "out2",
    "pool_proj": "out3",
}
_OTHERS = {"conv1.conv": "conv1", "conv2_reduce.conv": "reduction2", "conv2.conv": "conv2"}
_OTHERS |= {"fc": "cls3_fc"}
_OTHERS |= {
    f"auxiliary{i}.{part}": f"cls{i}_{name}"
    for i in (1, 2)
    for part, name in (("conv.conv", "reduction"), ("fc1", "fc1"), ("fc2", "fc2"))
}


def _princeton_place(name: str) -> str:
    module, _, rest = name.partition(".")
    if module.startswith("inception_"):
        number = _MODULES.index(module.removeprefix("inception_")) + 1
        return f"icp{number}_{_BRANCHES[rest.removesuffix('.conv')]}"
    return _OTHERS[name]


# Names are Caffe's; the GoogLeNet is Princeton's, whose modules are numbered.
PLACES: dict[str, Place] = CAFFE_PLACES | {"googlenet": _princeton_place}


def read_matconvnet(file: Path, network: str | None, *, ema: bool = False) -> PretrainedWeights:
    """Read a `.mat` file; see `formats.PretrainedReader`. Such files have no moving average."""
    if ema:
        raise UserError(f"{file}: MatConvNet keeps no moving average of weights; leave out --ema")
    net = _network(read_matlab(file), file)
    try:
        layers = list(_file_layers(net, str(file)))
        seen, remarks = _preprocessing(net)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        line = " ".join(str(error).split())[:200]
        raise UserError(f"{file}: isn't as MatConvNet writes networks ({line})") from None
    return matched(str(file), layers, PLACES, network, lambda _: seen, remarks)


def _network(variables: Mapping[str, Any], file: Path) -> Mapping[str, Any]:
    net = _one(variables.get("net", variables))
    if not isinstance(net, dict) or "layers" not in net:
        raise UserError(f"{file}: holds no network of MatConvNet: there are no `layers`")
    return net


def _one(value: Any) -> Any:
    """Return the single element of lists and cells of one."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


def _text(value: Any) -> str:
    """Return a short text, fit for a message."""
    value = _one(value)
    found = str(value.flat[0]) if isinstance(value, np.ndarray) and value.size else str(value)
    return "".join(each if each.isprintable() else "?" for each in found[:200])


def _numbers(value: Any) -> list[float]:
    value = _one(value)
    return [float(each) for each in value.flat] if isinstance(value, np.ndarray) else []


def _file_layers(net: Mapping[str, Any], file: str) -> Iterator[FileLayer]:
    """Return the layers that compute with weights, pool, or normalize, in their order."""
    values = {
        _text(each["name"]): each["value"] for each in net.get("params") or () if "value" in each
    }
    last: FileLayer | None = None
    for raw in net["layers"]:
        layer = _one(raw)
        if not isinstance(layer, dict) or "type" not in layer:
            raise UserError(f"{file}: a layer is no struct with a type")
        name = _text(layer.get("name", ""))
        block = _one(layer["block"]) if isinstance(_one(layer.get("block")), dict) else layer
        names = layer.get("params") or []
        names = [_text(each) for each in names] if isinstance(names, list) else []
        arrays = [values[each] for each in names if each in values] or _own_arrays(layer)
        found = _file_layer(name, _text(layer["type"]), block, arrays)
        if _text(layer["type"]) == "dagnn.Scale" and last and last.kind == "norm":
            last = _scaled(last, arrays)
            continue
        if last:
            yield last
        last = found
    if last:
        yield last


def _own_arrays(layer: Mapping[str, Any]) -> list[Array]:
    """Return a chain's weights, by their name of today or the older ones."""
    weights = layer.get("weights")
    if isinstance(weights, list):
        return [each for each in weights if isinstance(each, np.ndarray)]
    return [layer[key] for key in ("filters", "biases") if isinstance(layer.get(key), np.ndarray)]


def _file_layer(
    name: str, type: str, block: Mapping[str, Any], arrays: list[Array]
) -> FileLayer | None:
    match type.removeprefix("dagnn.").lower():
        case "conv" if arrays:
            weight = arrays[0].reshape(*arrays[0].shape, *(1,) * (4 - arrays[0].ndim))
            bias = arrays[1].reshape(-1) if len(arrays) > 1 and arrays[1].size else None
            settings = {
                "stride": _two(block.get("stride"), 1),
                "padding": _padding(block.get("pad")),
            }
            weight = weight.transpose(3, 2, 0, 1) if weight.ndim == 4 else weight
            return FileLayer(name, "convolution", weight, bias, settings=settings)
        case "batchnorm" | "bnorm" if len(arrays) == 3:
            gamma, beta, moments = arrays
            if moments.ndim != 2 or moments.shape[1] != 2:
                return FileLayer(name, "norm", gamma.reshape(-1), beta.reshape(-1))
            variance = np.square(moments[:, 1], dtype=np.float64)  # with its ε
            return FileLayer(
                name, "norm", gamma.reshape(-1), beta.reshape(-1), moments[:, 0], variance, eps=0.0
            )
        case "pooling" | "pool":
            kernel = _two(block.get("poolSize", block.get("pool")), 1)
            stride = _two(block.get("stride"), 1)
            return FileLayer(name, "pooling", settings={"kernel": kernel, "stride": stride})
        case "lrn" | "normalize":
            size, k, alpha, *_ = _numbers(block.get("param")) + 3 * [0.0]
            stated = {"size": int(size), "k": k, "alpha": alpha * size}
            return FileLayer(name, "response norm", settings=stated)
    return None


def _scaled(norm: FileLayer, arrays: list[Array]) -> FileLayer:
    """Put a layer of factors and summands into the batch norm before it."""
    factors, summands = (each.reshape(-1) for each in arrays)
    if norm.weight is None or norm.bias is None:
        raise ValueError(f"{norm.name} has no factors")
    return replace(norm, weight=norm.weight * factors, bias=norm.bias * factors + summands)


def _two(value: Any, default: int) -> tuple[int, int]:
    numbers = [int(each) for each in _numbers(value)] or [default]
    return numbers[0], numbers[-1]


def _padding(value: Any) -> tuple[int, ...]:
    """Return (down, across), or all four sides where they differ: top, bottom, left, right."""
    numbers = [int(each) for each in _numbers(value)] or [0]
    top, bottom, left, right = numbers if len(numbers) == 4 else 4 * numbers[:1]
    return (top, left) if (top, left) == (bottom, right) else (top, bottom, left, right)


def _preprocessing(net: Mapping[str, Any]) -> tuple[Preprocessing, list[str]]:
    """Return what the file states of its images, and what was chosen where it can't be followed."""
    meta = _one(net.get("meta")) or {}
    stated = _one((meta if isinstance(meta, dict) else {}).get("normalization"))
    stated = stated or _one(net.get("normalization"))
    if not isinstance(stated, dict):
        return Preprocessing(), ["The file doesn't say what its network sees; as torchvision's."]
    remarks = []
    size = int((_numbers(stated.get("imageSize")) or [224])[0])
    border = int((_numbers(stated.get("border")) or [0])[0])
    if not border:
        border = 32
        remarks.append(
            f"The file has no border around its {size} pixels; of {size + border}, as published."
        )
    average = _one(stated.get("averageImage"))
    mean = np.zeros(3)
    if isinstance(average, np.ndarray) and average.size >= 3:
        if average.ndim == 3 and average.shape[2] == 3 and average.shape[:2] != (1, 1):
            remarks.append("The mean image is replaced by its mean over the pixels.")
            mean = average.mean(axis=(0, 1), dtype=np.float64)
        elif average.size == 3:
            mean = average.reshape(-1).astype(np.float64)
    keeps = _numbers(stated.get("keepAspect")) or [1.0]
    seen = Preprocessing(
        mean=tuple(round(float(value), 3) for value in mean),
        std=(1.0, 1.0, 1.0),
        value_range=255,
        resize=size + border,
        crop=size,
        squash=not keeps[0],
        interpolation="bicubic" if _text(stated.get("interpolation")) == "bicubic" else "bilinear",
    )
    return seen, remarks
