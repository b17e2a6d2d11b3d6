"""Caffe's binary files: `.caffemodel`, a NetParameter, with the layers and their weights.

The numbers of the fields are those of Caffe's `caffe.proto`; of them, only what says how a layer
computes is read. Layers are of either form, `layer` or the older `layers` (V1).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.pretrained.mapped_file import mapped
from pipeline.pretrained.protobuf_wire import (
    WireError,
    fields,
    floats,
    integers,
    message,
    text,
)
from pipeline.runtime.errors import UserError

# V1LayerParameter.LayerType, by the names that they have since.
_V1_TYPES = {4: "Convolution", 14: "InnerProduct", 15: "LRN", 17: "Pooling"}

# The numbers of a layer's name, type, blobs, and parameters, in `layer` and in `layers`.
_LAYER = {"name": 1, "type": 2, "blobs": 7}
_LAYER |= {"convolution": 106, "pooling": 121, "lrn": 118, "batch_norm": 139}
_V1_LAYER = {"name": 4, "type": 5, "blobs": 6, "convolution": 10, "pooling": 19, "lrn": 18}

_CONVOLUTION = {3: "pad", 5: "group", 6: "stride", 9: "pad_h", 10: "pad_w", 18: "dilation"}
_CONVOLUTION |= {13: "stride_h", 14: "stride_w"}
_POOLING = {1: "pool", 2: "kernel_size", 3: "stride", 4: "pad", 12: "global_pooling"}
_POOLING |= {5: "kernel_h", 6: "kernel_w", 7: "stride_h", 8: "stride_w", 9: "pad_h", 10: "pad_w"}
_LRN = {1: "local_size", 2: "alpha", 3: "beta", 4: "norm_region", 5: "k"}
_PARAMETERS = {"convolution": _CONVOLUTION, "pooling": _POOLING, "lrn": _LRN}
_PARAMETERS |= {"batch_norm": {3: "eps"}}
_FLOATS = {"alpha", "beta", "k", "eps"}


# More than any network has, so that a file of nothing but layers or arrays takes no memory.
_MOST_LAYERS, _MOST_BLOBS, _MOST_SIDES = 10_000, 10, 8


@dataclass(frozen=True)
class CaffeLayer:
    """A layer with its arrays, which lie in the file, and what its parameters state."""

    name: str
    type: str
    blobs: tuple[NDArray[Any], ...] = ()
    parameters: Mapping[str, float] = field(default_factory=dict)


def read_caffemodel(file: Path) -> list[CaffeLayer]:
    """Read the layers in their order; raise `UserError` for a file that is no such model."""
    content = mapped(file)
    try:
        layers = list(islice(_layers(content), _MOST_LAYERS + 1))
    except (ArithmeticError, LookupError, ValueError) as error:
        raise UserError(f"{file}: no caffemodel, or a damaged one: {error}") from None
    if not 0 < len(layers) <= _MOST_LAYERS:
        raise UserError(f"{file}: no caffemodel: it has {'too many' if layers else 'no'} layers")
    return layers


def _layers(net: memoryview) -> Iterator[CaffeLayer]:
    for each in fields(net):
        if each.number == 100:
            yield _layer(message(each), _LAYER)
        elif each.number == 2:
            yield _layer(message(each), _V1_LAYER)


def _layer(content: memoryview, numbers: Mapping[str, int]) -> CaffeLayer:
    keys = {number: key for key, number in numbers.items()}
    name, type = "", ""
    blobs: list[NDArray[Any]] = []
    parameters: dict[str, float] = {}
    for each in fields(content):
        match keys.get(each.number):
            case None if each.number == 1:
                raise WireError("its layers are of 2013; Caffe's upgrade_net_proto_binary helps")
            case None:
                continue
            case "name":
                name = text(each)
            case "type" if isinstance(each.value, int):
                type = _V1_TYPES.get(each.value, str(each.value))
            case "type":
                type = text(each)
            case "blobs":
                blobs.append(_blob(message(each), f"array {len(blobs)} of {name}"))
                if len(blobs) > _MOST_BLOBS:
                    raise WireError(f"{name} has too many arrays")
            case key:
                parameters |= _parameters(message(each), _PARAMETERS[key])
    return CaffeLayer(name, type, tuple(blobs), parameters)


def _parameters(content: memoryview, names: Mapping[int, str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in fields(content):
        name = names.get(each.number)
        if name in _FLOATS:
            found[name] = float(floats(each)[0])
        elif name is not None:
            values = integers(each)
            if len(set(values)) > 1:
                raise WireError(f"{name} of {values} is of more than one value")
            found[name] = values[0]
    return found


def _blob(content: memoryview, name: str) -> NDArray[Any]:
    """Return an array as it lies in the file."""
    legacy, shape = {1: 0, 2: 0, 3: 0, 4: 0}, None
    values: NDArray[Any] = np.empty(0, np.float32)
    for each in fields(content):
        if each.number in legacy:
            legacy[each.number] = integers(each)[0]
        elif each.number == 5:
            values = floats(each)
        elif each.number == 8:
            values = floats(each, size=8)
        elif each.number == 7:
            shape = list(islice(_sides(message(each)), _MOST_SIDES + 1))
    sides = list(legacy.values()) if shape is None else shape
    if len(sides) > _MOST_SIDES or math.prod(sides) != values.size:
        raise WireError(
            f"{name} claims {' × '.join(map(str, sides))} values, and has {values.size:,}"
        )
    return values.reshape(sides)


def _sides(shape: memoryview) -> Iterator[int]:
    for each in fields(shape):
        if each.number == 1:
            yield from integers(each)
