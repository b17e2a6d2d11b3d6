"""MatConvNet's files give the probabilities of the same networks in OpenCV; others are refused."""

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import caffe_networks
import numpy as np
import pytest
import torch
from caffe_networks import Layer, Network
from scipy.io import savemat

from pipeline.pretrained.matconvnet_weights import read_matconvnet
from pipeline.runtime.errors import UserError


def cell(items: list[Any]) -> np.ndarray:
    array = np.empty((1, len(items)), object)
    for i, item in enumerate(items):
        array[0, i] = item
    return array


def structs(items: list[dict[str, Any]]) -> np.ndarray:
    array = np.empty((1, len(items)), [(key, object) for key in items[0]])
    for i, item in enumerate(items):
        for key, value in item.items():
            array[key][0, i] = value
    return array


def filters(layer: Layer, red_first: bool, side: int) -> list[np.ndarray]:
    """Height × width × in × out, of one map's size where the layer is linear."""
    weight, *bias = layer.blobs
    if weight.ndim == 2:
        weight = weight.reshape(len(weight), -1, side, side)
    weight = weight[:, ::-1] if red_first else weight
    return [weight.transpose(2, 3, 1, 0), *(each.reshape(1, -1) for each in bias)]


def geometry(layer: Layer) -> dict[str, Any]:
    stated = layer.parameters
    pad = float(stated.get("pad", 0))
    found: dict[str, Any] = {
        "stride": np.full((1, 2), float(stated.get("stride", 1))),
        "pad": np.full((1, 4), pad),
    }
    if layer.type == "Pooling":  # rounding up is padding on the right and at the bottom
        found["pad"] = np.array([[pad, pad + 1, pad, pad + 1]])
        found["method"] = "avg" if stated["pool"] else "max"
    if layer.type == "LRN":
        size, alpha = stated["local_size"], stated["alpha"]
        found = {"param": np.array([[size, 1.0, alpha / size, stated["beta"]]])}
    return found


NORMALIZATION = {
    "imageSize": np.array([[227.0, 227.0, 3.0, 1.0]]),
    "averageImage": np.full((227, 227, 3), [122.0, 116.0, 104.0], np.float32),
    "border": np.array([[29.0, 29.0]]),
    "keepAspect": np.array([[False]]),
    "interpolation": "bicubic",
}


def chain(network: Network) -> dict[str, Any]:
    """A SimpleNN."""
    types = {"Convolution": "conv", "InnerProduct": "conv", "Pooling": "pool", "LRN": "lrn"}
    types |= {"ReLU": "relu"}
    layers = []
    for layer in network.layers:
        made: dict[str, Any] = {"name": layer.name, "type": types[layer.type], **geometry(layer)}
        if layer.blobs:
            side = 6 if layer.name == "fc6" else 1
            made["weights"] = cell(filters(layer, layer.name == "conv1", side))
        if layer.type == "Pooling":
            made["pool"] = np.full((1, 2), float(layer.parameters["kernel_size"]))
        layers.append(made)
    layers.append({"name": "prob", "type": "softmax"})
    return {"layers": cell(layers), "meta": {"normalization": NORMALIZATION}}


def graph(network: Network, *, scales: bool = False) -> dict[str, Any]:
    """A DagNN, whose batch norms hold the scales after them, or don't."""
    types = {"Convolution": "Conv", "InnerProduct": "Conv", "Pooling": "Pooling", "LRN": "LRN"}
    types |= {"BatchNorm": "BatchNorm", "Scale": "Scale"}
    layers: list[dict[str, Any]] = []
    params: list[dict[str, Any]] = []

    def add(layer: Layer, block: dict[str, Any], named: dict[str, np.ndarray]) -> None:
        names = {f"{layer.name}_{key}": value for key, value in named.items()}
        params.extend({"name": key, "value": value} for key, value in names.items())
        layers.append(
            {
                "name": layer.name,
                "type": f"dagnn.{types.get(layer.type, layer.type)}",
                "inputs": cell(list(layer.bottoms)),
                "outputs": cell([layer.top]),
                "params": cell(list(names)),
                "block": block or {"opts": 0.0},
            }
        )

    for layer, following in zip(network.layers, [*network.layers[1:], None], strict=True):
        if layer.type == "BatchNorm":
            mean, variance, total = layer.blobs
            deviation = np.sqrt(variance / total + 1e-5)
            gamma, beta = np.ones_like(mean), np.zeros_like(mean)
            if not scales:
                assert following is not None
                gamma, beta = following.blobs
            moments = np.stack([mean / total, deviation], axis=1)
            add(layer, {"epsilon": 1e-5}, {"mult": gamma[:, None], "bias": beta[:, None],
                                          "moments": moments})  # fmt: skip
        elif layer.type == "Scale":
            if scales:
                named = dict(zip(("mult", "bias"), (b[:, None] for b in layer.blobs), strict=True))
                add(layer, {"hasBias": True}, named)
        elif layer.blobs:
            red_first = layer is network.layers[0]
            arrays = filters(layer, red_first, 1)
            add(layer, geometry(layer), dict(zip(("filter", "bias"), arrays, strict=False)))
        else:
            size = float(layer.parameters.get("kernel_size", 1))
            add(layer, geometry(layer) | {"poolSize": np.full((1, 2), size)}, {})
    return {
        "layers": structs(layers),
        "params": structs(params),
        "meta": {"normalization": NORMALIZATION | {"averageImage": np.array([[[1.0, 2.0, 3.0]]])}},
    }


FILES: dict[str, tuple[str, Callable[[], tuple[Network, dict[str, Any]]]]] = {
    "chain": ("alexnet_caffe", lambda: both(caffe_networks.alexnet(), chain)),
    "graph": ("resnet50_caffe", lambda: both(caffe_networks.resnet(50), graph)),
    "graph with scales": (
        "resnet50_caffe",
        lambda: both(caffe_networks.resnet(50), lambda network: graph(network, scales=True)),
    ),
}


def both(
    network: Network, write: Callable[[Network], dict[str, Any]]
) -> tuple[Network, dict[str, Any]]:
    return network, write(network)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if " " in kind else []) for kind in FILES]
)
def test_probabilities_equal_opencvs(tmp_path: Path, kind: str) -> None:
    name, write = FILES[kind]
    network, content = write()
    file = tmp_path / "network.mat"
    savemat(file, content)
    images = network.images()
    expected = network.probabilities(images)
    read = read_matconvnet(file, None)
    assert (read.network, read.num_classes) == (name, 10)
    with torch.inference_mode():
        got = read.build()(torch.from_numpy(images[:, ::-1].copy())).softmax(1).numpy()
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    assert np.abs(got - expected).max() < 1e-4
    seen = read.preprocessing
    assert seen.interpolation == "bicubic"
    assert seen.protocol.name(seen.crop) == "center-squash-256-227"
    assert seen.input.mean == ((122, 116, 104) if kind == "chain" else (1, 2, 3))
    assert any("mean image" in remark for remark in read.remarks) == (kind == "chain")


def refusal(tmp_path: Path, content: dict[str, Any] | bytes, **options: bool) -> str:
    file = tmp_path / "network.mat"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        savemat(file, content, **options)
    with pytest.raises(UserError) as refused:
        read_matconvnet(file, None)
    message = str(refused.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    return message


def test_a_network_of_its_own_is_refused_by_its_layers(tmp_path: Path) -> None:
    network = Network(32)
    network.convolution("conv1", 96, 11, stride=4)
    network.convolution("conv9", 4, 3)
    line = refusal(tmp_path, chain(network))
    assert "has the layers of no network" in line
    uneven = chain(network)
    uneven["layers"][0, 0]["pad"] = np.array([[0.0, 1.0, 0.0, 1.0]])
    with pytest.raises(UserError, match="conv9 has no place"):
        read_matconvnet(tmp_path / "network.mat", "caffenet")


def test_hostile_files_take_one_line_and_no_memory(tmp_path: Path) -> None:
    stream = io.BytesIO()
    savemat(stream, {"layers": cell([{"type": "conv", "name": "a"}])})
    good = stream.getvalue()
    tracemalloc.start()
    for damaged in (b"", b"anything else" * 100, good[:-40], good[:128] + nested_cells(200_000)):
        assert "no MATLAB file, or a damaged one" in refusal(tmp_path, damaged)
    assert "MemoryError" in refusal(tmp_path, good[:128] + eight_gigabytes())
    assert "there are no `layers`" in refusal(tmp_path, {"weights": np.zeros(3)})
    assert "MATLAB objects or functions" in refusal(tmp_path, with_a_function(good))
    assert "nested deeper" in refusal(tmp_path, good[:128] + nested_cells(50))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 2**20


def element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def head(kind: int, name: bytes, *sides: int) -> bytes:
    """The beginning of a matrix of a class, mxCELL_CLASS or another."""
    flags = element(6, struct.pack("<II", kind, 0))
    return flags + element(5, struct.pack(f"<{len(sides)}i", *sides)) + element(1, name)


def nested_cells(depth: int) -> bytes:
    beginning = head(1, b"layers", 1, 1)
    sizes = [(8 + len(beginning)) * (depth - i) for i in range(depth)]
    return b"".join(struct.pack("<II", 14, size) + beginning for size in sizes) + element(14, b"")


def eight_gigabytes() -> bytes:
    """A compressed matrix that claims them."""
    claimed = struct.pack("<II", 9, 2**32 - 8)
    matrix = struct.pack("<II", 14, 2**32 - 1) + head(6, b"layers", 2**29, 2) + claimed
    packed = zlib.compress(matrix + bytes(2**20))
    return struct.pack("<II", 15, len(packed)) + packed


def with_a_function(content: bytes) -> bytes:
    """Add a variable of the class of functions, mxFUNCTION_CLASS, that holds a number."""
    number = element(14, head(6, b"", 1, 1) + element(9, struct.pack("<d", 1.0)))
    return content + element(14, head(16, b"f", 1, 1) + number)
