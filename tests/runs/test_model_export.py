"""A run's network in files of others: ONNX by onnxruntime, TorchScript without this package."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from trained_runs import CLASSES, small_recipe, trained_run

from pipeline.config.recipe import InputConfig, Recipe, load_recipe
from pipeline.models.response_norm import ResponseNorm
from pipeline.models.weights_file import read_weights
from pipeline.models.zoo import NETWORKS, build_model
from pipeline.runs.model_export import EXPORT_FORMATS, export_network
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.errors import UserError

_LOADED_ALONE = """
import json, sys, warnings
import numpy as np
sys.modules["pipeline"] = None  # importing it is an ImportError
warnings.simplefilter("ignore")
import torch
files = {"ilsvrc.json": ""}
network = torch.jit.load(sys.argv[1], _extra_files=files)
images = torch.from_numpy(np.load(sys.argv[2]))
answers = [network(images[:count]).detach().softmax(1).numpy() for count in (1, 3)]
np.savez(sys.argv[3], *answers)
print(json.loads(files["ilsvrc.json"])["network"])
"""


def three_inputs(input: InputConfig) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (input.num_channels, *(input.size,) * input.dimensions)
    return torch.randn(3, *shape, generator=generator)


def probabilities(folder: RunFolder, inputs: Tensor) -> Tensor:
    recipe = folder.recipe()
    network = build_model(recipe.network, recipe.input)
    network.load_state_dict(read_weights(folder.weights))
    with torch.inference_mode():
        return network.eval()(inputs).softmax(1)


def check_onnx(folder: RunFolder, file: Path) -> onnxruntime.InferenceSession:
    inputs = three_inputs(folder.recipe().input)
    expected = probabilities(folder, inputs)
    session = onnxruntime.InferenceSession(file)
    for count in (1, 3):
        (logits,) = session.run(None, {"images": inputs[:count].numpy()})
        found = torch.from_numpy(logits).softmax(1)
        torch.testing.assert_close(found, expected[:count], rtol=0, atol=1e-4)
    return session


def check_torchscript(folder: RunFolder, file: Path, place: Path) -> None:
    inputs = three_inputs(folder.recipe().input)
    expected = probabilities(folder, inputs)
    np.save(place / "inputs.npy", inputs.numpy())
    command = [sys.executable, "-c", _LOADED_ALONE, file, place / "inputs.npy", place / "out.npz"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == folder.recipe().network.name
    for count, found in zip((1, 3), np.load(place / "out.npz").values(), strict=True):
        np.testing.assert_allclose(found, expected[:count], rtol=0, atol=1e-4)


def recipe_of(network: str) -> Recipe:
    """Return a recipe of the network at its published input, with few classes."""
    shape = NETWORKS[network](num_classes=2).input_shape
    channels = shape.num_channels
    levels = f"mean: {[128] * channels}, std: {[64] * channels}"
    color = "rgb" if channels == 3 else "gray"
    input = f"{{size: {shape.size}, dimensions: {shape.dimensions}, color: {color}, {levels}}}"
    plain = [
        "augmentation={kind: none}",
        "evaluation={kind: whole}",
        "network.initialization=published",
    ]
    return load_recipe("smoke", [f"network.name={network}", f"input={input}", *plain])


@pytest.mark.parametrize("network", ["lenet5_modern", "mnist1d_conv"])
def test_exported_networks_say_what_ours_do(network: str, tmp_path: Path) -> None:
    folder = trained_run(tmp_path / "runs" / "mine", recipe_of(network), ())
    check_onnx(folder, export_network(folder, "onnx", tmp_path / "a.onnx"))
    check_torchscript(folder, export_network(folder, "torchscript", tmp_path / "a.pt"), tmp_path)


def test_an_exported_file_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = small_recipe()
    folder = trained_run(tmp_path / "runs" / "mine", recipe)
    files = {name: export_network(folder, name) for name in ("onnx", "safetensors")}
    assert {path.name for path in files.values()} == {"mine.onnx", "mine.safetensors"}
    session = check_onnx(folder, files["onnx"])
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.shape[1:], given.name) == ("images", [3, 64, 64], "logits")
    said = session.get_modelmeta().custom_metadata_map
    with safe_open(files["safetensors"], "pt") as file:
        assert file.metadata() == said
        assert set(file.keys()) == set(read_weights(folder.weights))
    assert said["run"] == "mine"
    assert said["network"] == "resnet18"
    assert said["protocol"] == "center-72-64"
    assert said["weights_digest"] == folder.record().weights_digest  # type: ignore[union-attr]
    assert InputConfig.model_validate(json.loads(said["input"])) == recipe.input
    assert json.loads(said["classes"]) == [vars(each) for each in CLASSES]
    before = files["onnx"].read_bytes()
    with pytest.raises(UserError, match=r"mine\.onnx: is there already; remove it"):
        export_network(folder, "onnx")
    assert files["onnx"].read_bytes() == before
    with pytest.raises(UserError, match=r"--to tflite: no format to export; there are: onnx, tor"):
        export_network(folder, "tflite")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"runs", "mine.onnx", "mine.safetensors"}


def test_layers_stay_what_they_are_in_onnx() -> None:
    norm, number = ResponseNorm(size=5, alpha=0.5, k=2.0), nn.BatchNorm2d(7)
    with torch.no_grad():
        for values in (number.weight, number.running_mean, number.running_var):
            values.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    layers = nn.Sequential(nn.Conv2d(3, 7, 3), number, norm).eval()
    file = EXPORT_FORMATS["onnx"].encode(layers, (3, 6, 5), {})
    graph = onnx.load_from_string(file).graph
    assert [node.op_type for node in graph.node] == ["Conv", "BatchNormalization", "LRN"]
    names = set(layers.state_dict()) - {"1.num_batches_tracked"}
    assert names <= {each.name for each in graph.initializer}
    images = torch.randn(3, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    (found,) = onnxruntime.InferenceSession(file).run(None, {"images": images.numpy()})
    with torch.inference_mode():
        np.testing.assert_allclose(found, layers(images).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_of_the_zoo_is_exported(network: str, tmp_path: Path) -> None:
    folder = trained_run(tmp_path / "runs" / "mine", recipe_of(network), ())
    check_onnx(folder, export_network(folder, "onnx", tmp_path / "a.onnx"))
    check_torchscript(folder, export_network(folder, "torchscript", tmp_path / "a.pt"), tmp_path)
