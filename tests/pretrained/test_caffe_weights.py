"""Caffe's networks give OpenCV's probabilities; hostile and other files are refused in one line."""

import copy
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import caffe_networks
import numpy as np
import pytest
import torch
from caffe_networks import Network
from damaged_copies import damaged_copies

from pipeline.pretrained.caffe_weights import preprocessing_of, read_caffe
from pipeline.pretrained.layer_matching import Array, FileLayer, Kind, _recognized
from pipeline.runs.evaluated_model import external_model
from pipeline.runtime.errors import UserError

NETWORKS: dict[str, Callable[[], Network]] = {
    "alexnet_caffe": caffe_networks.alexnet,
    "caffenet": lambda: caffe_networks.alexnet(pool_first=True),
    "vgg16": caffe_networks.vgg16,
    "googlenet": caffe_networks.googlenet,
    "resnet50_caffe": lambda: caffe_networks.resnet(50),
    "densenet121": caffe_networks.densenet121,
    "resnet101_caffe": lambda: caffe_networks.resnet(101),
    "resnet152_caffe": lambda: caffe_networks.resnet(152),
}
FAST = ("alexnet_caffe", "googlenet", "resnet50_caffe")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in NETWORKS],
)
def test_probabilities_equal_opencvs(tmp_path: Path, name: str) -> None:
    network = NETWORKS[name]()
    file = tmp_path / "network.caffemodel"
    file.write_bytes(network.caffemodel(v1=name == "alexnet_caffe"))
    images = network.images()
    expected = network.probabilities(images)
    read = read_caffe(file, None)
    assert (read.network, read.num_classes, read.num_channels) == (name, 10, 3)
    with torch.inference_mode():
        got = read.build()(torch.from_numpy(images[:, ::-1].copy())).softmax(1).numpy()
    assert expected.max(axis=1).min() > 0.15  # more than chance
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    assert np.abs(got - expected).max() < 1e-4


def test_preprocessing_is_that_of_the_release() -> None:
    seen = {name: preprocessing_of(name) for name in NETWORKS}
    caffe = seen["alexnet_caffe"]
    assert caffe.protocol.name(caffe.crop) == "center-squash-256-227"
    assert caffe.input.mean == (122.679, 116.669, 104.007)  # red first
    assert caffe.input.std == (1, 1, 1)
    assert seen["googlenet"].protocol.name(224) == "center-squash-256-224"
    assert seen["googlenet"].input.mean == (123, 117, 104)
    assert seen["resnet50_caffe"].protocol.name(224) == "center-256-224"
    assert seen["vgg16"].input.mean == (123.68, 116.779, 103.939)
    assert seen["densenet121"].input.mean == (123.68, 116.78, 103.94)
    assert seen["densenet121"].input.std == pytest.approx((1 / 0.017,) * 3)


def test_evaluate_uses_it_and_says_so(tmp_path: Path, googlenet: Network) -> None:
    file = tmp_path / "bvlc_googlenet.caffemodel"
    file.write_bytes(googlenet.caffemodel())
    model = external_model(f"caffe:{file}", None, None, None)
    assert (model.name, model.protocol.name(224)) == ("googlenet", "center-squash-256-224")
    assert model.input.mean == (123, 117, 104)
    assert not model.takes_bgr
    assert model.remarks == (
        "The first convolution takes BGR in the file; it was turned to RGB.",
        "The auxiliary classifiers, for training only, keep initial weights.",
        "It sees RGB of 0 to 255 less 123 117 104; the central 224 pixels, both sides resized to "
        "256 by a bilinear filter.",
    )


@pytest.fixture(scope="module")
def small() -> Network:
    """The stem of a network that the zoo doesn't have."""
    network = Network(32)
    network.convolution("conv1", 4, 3, stride=2)
    network.batch_norm("bn_conv1", "scale_conv1")
    network.linear("fc1000", 4 * 15 * 15, 10)
    return network


@pytest.fixture(scope="module")
def googlenet() -> Network:
    return caffe_networks.googlenet()


def refusal(tmp_path: Path, content: bytes, network: str | None = None) -> str:
    """Return the one line that refuses a file."""
    file = tmp_path / "network.caffemodel"
    file.write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_caffe(file, network)
    message = str(refused.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    return message.removeprefix(f"{file}: ")


def test_a_network_that_the_zoo_lacks_is_refused_by_its_layers(
    tmp_path: Path, small: Network
) -> None:
    line = refusal(tmp_path, small.caffemodel())
    assert "has the layers of no network among alexnet_caffe, caffenet" in line
    assert "of resnet" in line
    assert "it lacks bn2a_branch1" in line
    assert "files of this format are read of" in refusal(tmp_path, small.caffemodel(), "zfnet")


def test_a_layer_that_does_not_fit_is_named(tmp_path: Path, googlenet: Network) -> None:
    def changed(place: str, **changes: Any) -> bytes:
        layers = [
            replace(layer, **changes) if layer.name == place else layer
            for layer in googlenet.layers
        ]
        other = copy.copy(googlenet)
        other.layers = layers
        return other.caffemodel()

    narrow = [np.zeros((47, 832, 1, 1), np.float32), np.zeros(47, np.float32)]
    assert "inception_5b/5x5_reduce has a weight of 47 × 832 × 1 × 1, here 48" in refusal(
        tmp_path, changed("inception_5b/5x5_reduce", blobs=narrow)
    )
    stated = {"num_output": 64, "kernel_size": 7, "pad": 2, "stride": 2}
    assert "conv1/7x7_s2 has padding (2, 2), here (3, 3)" in refusal(
        tmp_path, changed("conv1/7x7_s2", parameters=stated)
    )
    assert "conv2/3x3 has no bias" in refusal(
        tmp_path, changed("conv2/3x3", blobs=[np.zeros((192, 64, 3, 3), np.float32)])
    )
    assert "of googlenet, it lacks conv2/3x3" in refusal(
        tmp_path, changed("conv2/3x3", name="conv2/other")
    )


def test_the_order_of_pooling_tells_two_networks_of_the_same_weights() -> None:
    """Without it, as in a file of weights alone, the user is asked."""
    layers = [
        FileLayer(name, kind, *(arrays or ()), settings=settings)
        for name, kind, arrays, settings in _alexnet_without_memory()
    ]
    places = dict.fromkeys(("alexnet_caffe", "caffenet"), str)
    pool_first = [layers[i] for i in (0, 2, 1, 3, 5, 4, *range(6, len(layers)))]
    assert _recognized("file", layers, places) == "alexnet_caffe"
    assert _recognized("file", pool_first, places) == "caffenet"
    alone = [layer for layer in layers if layer.weight is not None]
    with pytest.raises(UserError, match="--network which it is of: alexnet_caffe or caffenet"):
        _recognized("file", alone, places)
    other = replace(layers[1], settings={"alpha": 5e-4})
    with pytest.raises(UserError, match=r"named like alexnet_caffe, but norm1 has alpha 0\.0005"):
        _recognized("file", [layers[0], other, *layers[2:]], places)


def _alexnet_without_memory() -> list[tuple[str, Kind, tuple[Array, Array] | None, dict[str, Any]]]:
    shapes = {
        "conv1": (96, 3, 11, 11), "norm1": None, "pool1": None,
        "conv2": (256, 48, 5, 5), "norm2": None, "pool2": None,
        "conv3": (384, 256, 3, 3), "conv4": (384, 192, 3, 3), "conv5": (256, 192, 3, 3),
        "pool5": None, "fc6": (4096, 9216), "fc7": (4096, 4096), "fc8": (10, 4096),
    }  # fmt: skip
    kinds: dict[str, Kind] = {"conv": "convolution", "norm": "response norm", "pool": "pooling"}
    nothing = np.zeros(1, np.float32)
    return [
        (
            name,
            kinds.get(name[:4], "linear"),
            (np.broadcast_to(nothing, shape), np.broadcast_to(nothing, shape[:1]))
            if shape
            else None,
            {"alpha": 1e-4} if name.startswith("norm") else {},
        )
        for name, shape in shapes.items()
    ]


def test_hostile_files_take_one_line_and_no_memory(tmp_path: Path, small: Network) -> None:
    good = small.caffemodel()
    tracemalloc.start()
    assert refusal(tmp_path, b"") == "is empty"
    assert "no caffemodel" in refusal(tmp_path, b"PK\x03\x04 something else entirely")
    for end in (1, len(good) // 3, len(good) - 1):
        assert "no caffemodel, or a damaged one" in refusal(tmp_path, good[:end])

    def blob(fields: bytes) -> bytes:
        layer = b"\x0a\x05conv1\x12\x0bConvolution\x3a" + varint(len(fields)) + fields
        return b"\xa2\x06" + varint(len(layer)) + layer

    def varint(value: int) -> bytes:
        more = bytes([value & 0x7F | (0x80 if value > 0x7F else 0)])
        return more + (varint(value >> 7) if value > 0x7F else b"")

    eight_gigabytes = b"\x2a" + varint(8 * 2**30) + bytes(64)
    assert "claims 8,589,934,592 bytes, of which there are 64" in refusal(
        tmp_path, blob(eight_gigabytes)
    )
    shape = b"\x08" + varint(2**31) + b"\x10" + varint(2**33)
    assert "array 0 of conv1 claims 2147483648 × 8589934592 × 0 × 0" in refusal(
        tmp_path, blob(shape + b"\x2a\x04" + bytes(4))
    )
    wraps_to_0 = b"\x3a" + varint(20) + 2 * (b"\x08" + varint(2**62)) + b"\x2a\x00"
    assert "conv1 claims" in refusal(tmp_path, blob(wraps_to_0))
    assert "more than 64 bits" in refusal(tmp_path, blob(b"\x08" + b"\xff" * 11))
    assert "too many layers" in refusal(tmp_path, b"\xa2\x06\x00" * 200_000)
    assert "too many arrays" in refusal(tmp_path, _many_arrays())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * 2**20


def test_a_moving_average_is_not_in_such_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no moving average"):
        read_caffe(tmp_path / "network.caffemodel", None, ema=True)


def _many_arrays() -> bytes:
    layer = b"\x3a\x00" * 100_000
    return b"\xa2\x06" + b"\xc0\x9a\x0c" + layer


def test_a_sparse_file_of_8_gb_is_not_read(tmp_path: Path) -> None:
    """It truly has the 8 GB that an array claims, and the array fits no layer."""
    file = tmp_path / "network.caffemodel"
    size = 2**33
    shape = b"\x3a\x06\x08" + b"\x80\x80\x80\x80\x08"  # 2³¹ values
    blob = shape + b"\x2a" + b"\x80\x80\x80\x80\x20"
    layer = b"\x0a\x05conv1\x12\x0bConvolution\x3a" + _long(size + len(blob)) + blob
    with file.open("wb") as opened:
        opened.write(b"\xa2\x06" + _long(size + len(layer)) + layer)
        opened.truncate(opened.tell() + size)
    with pytest.raises(UserError, match="has the layers of no network"):
        read_caffe(file, None)
    with pytest.raises(UserError, match="conv1 has no place"):
        read_caffe(file, "googlenet")


def _long(value: int) -> bytes:
    return bytes([(value >> shift) & 0x7F | 0x80 for shift in range(0, 35, 7)]) + b"\x00"


def test_damaged_files_take_one_line(tmp_path: Path, small: Network) -> None:
    good = small.caffemodel()
    for file in damaged_copies(good, tmp_path):
        with pytest.raises(UserError) as refused:
            read_caffe(file, None)
        assert "\n" not in str(refused.value)
