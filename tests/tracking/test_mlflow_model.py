import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.config.recipe import Recipe
from pipeline.data.store.manifest import ImageClass
from pipeline.models.zoo import build_model
from pipeline.tracking.mlflow_client import connect
from pipeline.tracking.mlflow_model import log_model


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


def test_a_logged_model_returns_the_networks_logits(
    store: str, run_id: str, recipe: Recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = build_model(recipe.network, recipe.input).eval()
    weights = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), weights)
    images = np.random.default_rng(0).standard_normal((5, 1, 32, 32), dtype=np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).numpy()

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
    program = (
        "import sys, warnings\n"
        "import numpy as np\n"
        "warnings.simplefilter('ignore')\n"
        "import mlflow.pyfunc\n"
        "folder, images, logits = sys.argv[1:]\n"
        "model = mlflow.pyfunc.load_model(folder)\n"
        "import pipeline.models.zoo\n"
        "assert pipeline.models.zoo.__file__.startswith(folder)\n"
        "signature = model.metadata.signature\n"
        "((seen,), (said,)) = signature.inputs.inputs, signature.outputs.inputs\n"
        "print(seen.type.name, seen.shape, said.type.name, said.shape)\n"
        "np.save(logits, model.predict(np.load(images)))\n"
    )
    command = [sys.executable, "-c", program, folder, tmp_path / "images.npy", tmp_path / "out.npy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "float32 (-1, 1, 32, 32) float32 (-1, 7)"
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=0, atol=1e-6)

    (stored,) = folder.rglob(weights.name)
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "its bytes have changed since they were stored" in done.stderr
