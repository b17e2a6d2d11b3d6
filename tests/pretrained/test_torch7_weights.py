"""Torch7's networks give OpenCV's probabilities; hostile files are refused in one line."""

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from damaged_copies import damaged_copies
from torch7_networks import NETWORKS, RELU, Maker, Writer, container, resnet

from pipeline.pretrained.torch7_weights import read_torch7
from pipeline.runtime.errors import UserError


@pytest.mark.parametrize(
    "name", ["resnet18", "densenet121", pytest.param("resnet50_v1_5", marks=pytest.mark.slow)]
)
def test_probabilities_equal_opencvs(tmp_path: Path, name: str) -> None:
    file = tmp_path / "network.t7"
    module = NETWORKS[name]()
    writer = Writer("Double" if name == "densenet121" else "Float")
    writer.write(module)
    file.write_bytes(writer.content)
    images = np.random.default_rng(1).standard_normal((2, 3, 224, 224), np.float32)
    images[1] += np.array([2, 0, -2], np.float32).reshape(3, 1, 1)
    network = cv2.dnn.readNetFromTorch(str(file))
    outputs = []
    for image in images:
        network.setInput(image[None])
        outputs.append(torch.from_numpy(network.forward().reshape(-1).copy()).softmax(0).numpy())
    expected = np.stack(outputs)
    read = read_torch7(file, None)
    assert (read.network, read.num_classes) == (name, 10)
    with torch.inference_mode():
        got = read.build()(torch.from_numpy(images)).softmax(1).numpy()
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    assert np.abs(got - expected).max() < 1e-4


def written(value: Any, type: str = "Float") -> bytes:
    writer = Writer(type)
    writer.write(value)
    return writer.content


def refusal(tmp_path: Path, content: bytes, network: str | None = None) -> str:
    file = tmp_path / "network.t7"
    file.write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_torch7(file, network)
    message = str(refused.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    return message


def test_tensors_of_a_gpu_and_a_trainings_table_are_read(tmp_path: Path) -> None:
    """As cudnn's modules in a checkpoint; each convolution has a bias of zeros."""

    def on_gpu(module: Any) -> Any:
        kind, fields = module
        fields = (
            {key: value for key, value in fields.items() if key != "modules"}
            | {"modules": {key: on_gpu(each) for key, each in fields["modules"].items()}}
            if "modules" in fields
            else dict(fields)
        )
        if kind == "nn.SpatialConvolution":
            fields |= {"bias": np.zeros(int(fields["nOutputPlane"])), "groups": 1}
        return kind.replace("nn.Spatial", "cudnn.Spatial"), fields

    file = tmp_path / "checkpoint.t7"
    file.write_bytes(written({"epoch": 90, "model": on_gpu(NETWORKS["resnet18"]())}, "Cuda"))
    file2 = tmp_path / "plain.t7"
    file2.write_bytes(written(NETWORKS["resnet18"]()))
    on_gpu_read, plain = read_torch7(file, None), read_torch7(file2, "resnet18")
    assert on_gpu_read.network == "resnet18"
    for key, value in plain.weights.items():
        assert torch.equal(value, on_gpu_read.weights[key])
    assert plain.preprocessing.protocol.name(224) == "center-256-224"
    assert plain.preprocessing.interpolation == "bicubic"


def test_the_place_of_the_stride_and_the_layers_tell_the_network(tmp_path: Path) -> None:
    make = Maker()
    small = container("Sequential", make.convolution(3, 8, 3), make.norm(8), RELU)
    assert "has the layers of no network among resnet18" in refusal(tmp_path, written(small))
    wrong = resnet(18)
    wrong[1]["modules"][2] = make.norm(63)
    assert "module 2 (nn.SpatialBatchNormalization) has a weight of 63, here 64" in refusal(
        tmp_path, written(wrong), "resnet18"
    )
    assert "are read of resnet18" in refusal(tmp_path, written(small), "vgg16")


def test_hostile_files_take_one_line_and_no_memory(tmp_path: Path) -> None:
    good = written(container("Sequential", Maker().linear(3, 4)))
    tracemalloc.start()
    assert "is empty" in refusal(tmp_path, b"")
    assert "an object of kind" in refusal(tmp_path, b"PK\x03\x04 anything else")
    for end in (2, 30, len(good) - 3):
        assert "claims" in refusal(tmp_path, good[:end])
    assert "holds no network" in refusal(tmp_path, written({"model": 3}))
    # A table whose key 1 is the table itself; a module that is its own module; one of functions.
    assert "holds no network" in refusal(tmp_path, struct.pack("<iiiidii", 3, 1, 1, 1, 1.0, 3, 1))
    writer = Writer()
    writer.head("nn.Sequential")
    writer.pack("<iii", 3, 2, 1)
    writer.write("modules")
    writer.pack("<iiiidii", 3, 3, 1, 1, 1.0, 4, 1)
    assert "contains itself" in refusal(tmp_path, writer.content)
    code = b"os.execute('touch /tmp/executed')"
    function = struct.pack("<iii", 8, 1, len(code)) + code + struct.pack("<i", 0)
    assert "holds no network" in refusal(tmp_path, function)
    assert "nested deeper" in refusal(tmp_path, nested_tables(100_000))
    assert "claims" in refusal(tmp_path, struct.pack("<iii", 3, 1, 2**31 - 1))
    assert "more objects" in refusal(
        tmp_path, struct.pack("<iii", 3, 1, 2**31 - 1) + bytes(4 * 210_000)
    )
    for sizes, strides, first in (
        ((2**40,), (1,), 1), ((5,), (2**61,), 1), ((2,), (1,), -5), ((3,), (-1,), 3),
    ):  # fmt: skip
        assert "a tensor of" in refusal(tmp_path, tensor(sizes, strides, first, 4))
    assert "claims" in refusal(tmp_path, tensor((4,), (1,), 1, 2**61))
    assert "claims" in refusal(tmp_path, tensor((4,), (1,), 1, -1))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 2**20


def nested_tables(depth: int) -> bytes:
    return b"".join(struct.pack("<iiiid", 3, i, 1, 1, 1.0) for i in range(1, depth))


def tensor(sizes: tuple[int, ...], strides: tuple[int, ...], first: int, claimed: int) -> bytes:
    """A tensor whose storage has 4 numbers and claims others."""
    writer = Writer()
    writer.head("torch.FloatTensor")
    writer.pack(f"<i{2 * len(sizes)}qq", len(sizes), *sizes, *strides, first)
    writer.head("torch.FloatStorage")
    writer.pack("<q", claimed)
    return writer.content + bytes(16)


def test_damaged_files_take_one_line(tmp_path: Path) -> None:
    good = written(container("Sequential", Maker().convolution(3, 4, 3), Maker().norm(4)))
    for file in damaged_copies(good, tmp_path):
        with pytest.raises(UserError) as refused:
            read_torch7(file, None)
        assert "\n" not in str(refused.value)
