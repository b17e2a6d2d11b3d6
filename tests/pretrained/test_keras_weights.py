"""Weights of keras.applications give Keras' probabilities; other and hostile files are refused."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from pipeline.pretrained.keras_weights import fully_connected, read_keras
from pipeline.runtime.errors import UserError

REFERENCE = Path(__file__).with_name("keras_reference.py")
# By each of Keras' three layouts of HDF5.
CASES = {
    "ResNet50": ("resnet50", "64:weights"),
    "DenseNet121": ("densenet121", "64:model"),
    "InceptionV3": ("inception_v3_tf", "299:legacy"),
}
LARGE = {"VGG16": ("vgg16", "224:weights")}


def references(folder: Path, cases: dict[str, tuple[str, str]]) -> Path:
    wanted = [f"{name}:{options}" for name, (_, options) in cases.items()]
    subprocess.run([sys.executable, str(REFERENCE), str(folder), *wanted], check=True)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return references(tmp_path_factory.mktemp("keras"), CASES)


def the_file(folder: Path, name: str) -> Path:
    return next(folder.glob(f"{name}.*h5"))


def check_probabilities(folder: Path, name: str, own: str) -> None:
    found = read_keras(the_file(folder, name), None)
    assert (found.network, found.num_classes) == (own, 5)
    reference = np.load(folder / f"{name}.npz")
    images = torch.from_numpy(reference["images"]).permute(0, 3, 1, 2)
    with torch.no_grad():
        got = found.build()(images).softmax(1).numpy()
    assert abs(got - reference["probabilities"]).max() < 1e-5
    assert abs(got - got.mean(1, keepdims=True)).max() > 0.05  # they tell classes apart


@pytest.mark.parametrize("name", CASES)
def test_probabilities_equal_keras(saved: Path, name: str) -> None:
    check_probabilities(saved, name, CASES[name][0])


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_large_networks_equal_keras(name: str, tmp_path: Path) -> None:
    check_probabilities(references(tmp_path, LARGE), name, LARGE[name][0])


def test_the_first_linear_layer_of_vgg_reads_a_map_with_channels_last() -> None:
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(7 * 7 * 512, 3)).astype(np.float32)
    images = generator.normal(size=(1, 7, 7, 512)).astype(np.float32)
    matrix = fully_connected(torch.from_numpy(kernel), "fc6").numpy()
    got = images.transpose(0, 3, 1, 2).reshape(1, -1) @ matrix.T
    np.testing.assert_allclose(got, images.reshape(1, -1) @ kernel, rtol=1e-4, atol=1e-3)


def test_the_networks_name_and_input_are_those_of_keras(saved: Path) -> None:
    resnet = read_keras(the_file(saved, "ResNet50"), "ResNet50")
    assert resnet.preprocessing.colors == "bgr"
    assert resnet.preprocessing.input.mean == (123.68, 116.779, 103.939)
    assert "Keras' ResNet50, which is resnet50 here" in resnet.remarks[0]
    inception = read_keras(the_file(saved, "InceptionV3"), "inception_v3").preprocessing
    assert (inception.input.mean, inception.crop) == ((127.5, 127.5, 127.5), 299)
    with pytest.raises(UserError, match=r"has no layer conv2_block1_2_bn, for resnet101"):
        read_keras(the_file(saved, "DenseNet121"), "resnet101")
    with pytest.raises(UserError, match=r"has no layer conv4_block7_1_conv, for resnet101"):
        read_keras(the_file(saved, "ResNet50"), "resnet101")
    with pytest.raises(UserError, match=r"no network like 'alexnet'; it has, as here: vgg16"):
        read_keras(the_file(saved, "ResNet50"), "alexnet")
    with pytest.raises(UserError, match="--ema"):
        read_keras(the_file(saved, "ResNet50"), None, ema=True)


def test_a_layer_that_does_not_fit_is_named(tmp_path: Path, saved: Path) -> None:
    file = tmp_path / "changed.h5"
    file.write_bytes(the_file(saved, "DenseNet121").read_bytes())
    with h5py.File(file, "a") as opened:
        layer = opened["model_weights/conv3_block2_1_conv/conv3_block2_1_conv"]
        del layer["kernel"]
        layer["kernel"] = np.zeros((1, 1, 159, 128), np.float32)
    with pytest.raises(
        UserError, match=r"conv3_block2_1_conv's weight is \(128, 159, 1, 1\), here"
    ):
        read_keras(file, None)
    with h5py.File(file, "a") as opened:
        del opened["model_weights/conv3_block2_1_conv"]
    with pytest.raises(UserError, match=r"its layers \(.*are of no network that keras"):
        read_keras(file, None)
    with pytest.raises(UserError, match=r"has no layer conv3_block2_1_conv, for densenet121's"):
        read_keras(file, "densenet121")


HOSTILE = {
    "a link to another file": "is a link, which isn't followed",
    "values in another file": "in another file, not numbers",
    "more than the file holds": r"\(1048576, 1048576\) .*not numbers that the file holds",
    "text": "not numbers that the file holds",
    "no names": "doesn't name its layers",
    "nested": "nested too deep",
    "no HDF5": "is no HDF5 file",
    "cut": "is no HDF5 file",
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_hostile_files_are_refused_in_one_line(fault: str, tmp_path: Path) -> None:
    file, secret = tmp_path / "hostile.h5", tmp_path / "secret.h5"
    secret.write_bytes(b"\0" * 4096)
    with h5py.File(file, "w") as opened:
        layer = opened.create_group("conv1_conv").create_group("conv1_conv")
        match fault:
            case "a link to another file":
                layer["kernel"] = h5py.ExternalLink(str(secret), "/x")
            case "values in another file":
                external = [(str(secret), 0, 16)]
                layer.create_dataset("kernel", (1, 1, 2, 2), np.float32, external=external)
            case "more than the file holds":
                layer.create_dataset("kernel", (1 << 20, 1 << 20), np.float32, chunks=(64, 64))
            case "text":
                layer["kernel"] = "import os"
            case "no names":
                opened["layers/conv2d/vars/0"] = np.zeros((1, 1, 2, 2), np.float32)
            case "nested":
                opened["a/b/c/d/e/f/g/h/i/j/k"] = np.zeros(2, np.float32)
    if fault == "no HDF5":
        file.write_bytes(b"PK\3\4" + b"\0" * 100)
    if fault == "cut":
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(UserError, match=HOSTILE[fault]) as raised:
        read_keras(file, None)
    assert "\n" not in str(raised.value)
