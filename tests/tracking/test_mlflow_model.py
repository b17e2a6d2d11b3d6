import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from pipeline.config.recipe import Recipe, load_recipe
from pipeline.data.store.manifest import ImageClass
from pipeline.models.zoo import build_model
from pipeline.tracking.mlflow_client import connect
from pipeline.tracking.mlflow_model import log_model

# What a machine that serves needs not have; MLflow has some of it, and does without.
_ABSENT = ("h5py", "matplotlib", "mnist1d", "nvidia", "onnx", "ray", "rich", "torchvision", "typer")
_ASKED_ALONE = f"""
import json, sys, warnings
for name in {_ABSENT}:
    sys.modules[name] = None  # importing it is an ImportError
import numpy as np
import pandas as pd
warnings.simplefilter("ignore")
import mlflow.pyfunc
folder, images = sys.argv[1:]
model = mlflow.pyfunc.load_model(folder)
import pipeline.models.zoo
assert pipeline.models.zoo.__file__.startswith(folder)
signature = model.metadata.signature
print(json.dumps([signature.inputs.input_names(), signature.outputs.input_names()]))
for answer in model.predict(pd.DataFrame({{"array": list(np.load(images))}}), {{"top": 10}}):
    print(json.dumps(answer))
"""


@pytest.fixture
def recipe() -> Recipe:
    return Recipe.model_validate(
        {
            "network": {"name": "lenet5_modern", "num_classes": 7},
            "data": {"name": "photos"},
            "input": {"size": 32, "color": "gray", "mean": [33], "std": [79]},
            "augmentation": {"kind": "none"},
            "evaluation": {"kind": "whole"},
            "batch": {"global_batch_size": 4, "micro_batch_size": 4},
            "optimizer": {"kind": "sgd", "learning_rate": 0.1},
            "schedule": {"kind": "constant"},
            "epochs": 1,
        }
    )


def test_a_logged_model_needs_only_its_folder_and_its_requirements(
    store: str, run_id: str, recipe: Recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = build_model(recipe.network, recipe.input).eval()
    weights = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), weights)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32))
    with torch.inference_mode():
        inputs = torch.from_numpy((images - 33) / 79).float()
        expected = network(inputs[:, None]).softmax(1).numpy()

    classes = [ImageClass(index, f"n{index:08d}") for index in range(recipe.network.num_classes)]
    address = log_model(store, run_id, recipe, weights, classes)
    assert capfd.readouterr() == ("", "")
    (output,) = connect(store).get_run(run_id).outputs.model_outputs
    assert address == f"models:/{output.model_id}"
    model = connect(store).get_logged_model(output.model_id)
    assert model.status == "READY"
    folder = Path(model.artifact_location.removeprefix("file://"))
    kept = json.loads((folder / "artifacts" / "classes.json").read_text())
    assert [ImageClass(**each) for each in kept] == classes
    assert not list(folder.rglob("*.pkl"))
    assert not list(folder.rglob("__pycache__"))

    # A process of its own, with nothing but the model's folder to find this code in.
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", _ASKED_ALONE, folder, tmp_path / "images.npy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    signature, *answers = map(json.loads, done.stdout.splitlines()[-6:])
    assert signature == [["image", "array"], ["protocol", "network", "weights_digest", "top"]]
    for answer, values in zip(answers, expected, strict=True):
        assert (answer["protocol"], answer["network"]) == ("whole", "lenet5_modern")
        top = answer["top"]
        assert [each["output"] for each in top] == np.argsort(-values).tolist()
        assert [each["wnid"] for each in top] == [classes[each["output"]].name for each in top]
        found = [each["probability"] for each in top]
        np.testing.assert_allclose(found, np.sort(values)[::-1], rtol=0, atol=1e-6)

    (stored,) = folder.rglob(weights.name)
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "its bytes have changed since they were stored" in done.stderr


def test_a_network_of_signals_takes_arrays(store: str, run_id: str, tmp_path: Path) -> None:
    recipe = load_recipe("mnist1d_conv")
    network = build_model(recipe.network, recipe.input).eval()
    weights = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), weights)
    signals = np.random.default_rng(0).standard_normal((3, recipe.input.size), dtype=np.float32)
    with torch.inference_mode():
        mean, std = recipe.input.mean[0], recipe.input.std[0]
        expected = network(torch.from_numpy((signals - mean) / std)[:, None]).softmax(1)
    location = log_model(store, run_id, recipe, weights, ())
    from mlflow import pyfunc
    from mlflow.exceptions import MlflowException

    folder = connect(store).get_logged_model(location.removeprefix("models:/")).artifact_location
    model = pyfunc.load_model(folder)
    answers = model.predict(pd.DataFrame({"array": list(signals)}), {"top": 1})
    for answer, values in zip(answers, expected, strict=True):
        (best,) = answer["top"]
        assert best["name"] == str(int(values.argmax()))
        assert best["probability"] == pytest.approx(float(values.max()), abs=1e-6)
    with pytest.raises(MlflowException, match=r"'array': a signal is 40 numbers"):
        model.predict(pd.DataFrame({"array": [[1.0, 2.0]]}))
