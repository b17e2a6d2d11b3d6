"""Stores the final network of a run as an MLflow model, without pickle."""

import json
import tempfile
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pipeline
from pipeline.config.recipe import Recipe
from pipeline.config.yaml import to_yaml
from pipeline.data.store.manifest import ImageClass
from pipeline.runtime.storage import file_digest
from pipeline.tracking.mlflow_client import connect, user_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.models import ModelSignature

# The packages that a network needs to be rebuilt and asked; this project's code is stored with it.
_REQUIREMENTS = (
    *("mlflow", "numpy", "pandas", "pillow", "pyarrow", "pydantic", "pyyaml", "safetensors"),
    *("torch", "universal-pathlib"),
)
# The columns of what it takes, and how many classes it answers unless its parameter `top` says so.
IMAGE, ARRAY = "image", "array"
_TOP = 5


def log_model(
    uri: str, run_id: str, recipe: Recipe, weights: Path, classes: Sequence[ImageClass]
) -> str:
    """Store the network of `recipe` with `weights` (safetensors) as a model of the run.

    It holds the weights, the recipe, `classes.json` (those of its outputs) and this project's code,
    which rebuilds the network from them.
    Loaded by `mlflow.pyfunc.load_model`, or served, it takes a table of images: in the column
    `image` the bytes of files (base64 in JSON), or in `array` pixels of 0 to 255, (height, width)
    or (height, width, 3), or signals, (size,). It returns the likeliest classes of each by name, as
    `ilsvrc predict --json` prints them. Returns the model's address, `models:/<id>`. A run has one:
    called again, also after a kill, this completes what is missing.
    """
    with user_errors(uri), tempfile.TemporaryDirectory() as temporary:
        client = connect(uri)
        from mlflow import pyfunc  # lazy: loads at its first use
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        run = client.get_run(run_id)
        logged = _model_of_run(client, run) or client.create_logged_model(
            # Not `pyfunc.log_model`: that one reads the run's whole metric history first.
            run.info.experiment_id,
            name=recipe.network.name,
            source_run_id=run_id,
        )
        recipe_file = Path(temporary) / "recipe.yaml"
        recipe_file.write_text(to_yaml(recipe), encoding="utf-8")
        classes_file = Path(temporary) / "classes.json"
        classes_file.write_text(json.dumps(list(map(vars, classes))), encoding="utf-8")
        folder = Path(temporary) / "model"
        with warnings.catch_warnings():
            # MLflow warns of its own type hints, and that a signature came without an example.
            warnings.simplefilter("ignore")
            pyfunc.save_model(
                folder,
                mlflow_model=Model(
                    artifact_path=logged.artifact_location,
                    model_uuid=logged.model_id,
                    run_id=run_id,
                    model_id=logged.model_id,
                ),
                python_model=Path(__file__).parent / "pyfunc_model.py",
                artifacts={
                    "recipe": str(recipe_file),
                    "weights": str(weights),
                    "classes": str(classes_file),
                },
                code_paths=[str(Path(pipeline.__file__).parent)],
                model_config={"weights_digest": file_digest(weights)},
                signature=_signature(recipe),
                pip_requirements=[f"{name}=={version(name)}" for name in _REQUIREMENTS],
            )
        client.log_model_artifacts(logged.model_id, str(folder))
        client.finalize_logged_model(logged.model_id, "READY")
        outputs = run.outputs.model_outputs if run.outputs else []
        if logged.model_id not in [output.model_id for output in outputs]:
            client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        return f"models:/{logged.model_id}"


def _model_of_run(client: "MlflowClient", run: "Run") -> "LoggedModel | None":
    of_run = f"source_run_id = '{run.info.run_id}'"
    found = client.search_logged_models([run.info.experiment_id], filter_string=of_run)
    return found[0] if found else None


def _signature(recipe: Recipe) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType, Array, Object, Property

    image = ColSpec(DataType.binary, IMAGE, required=False)
    array = ColSpec(AnyType(), ARRAY, required=False)
    texts = [ColSpec(DataType.string, name) for name in ("protocol", "network", "weights_digest")]
    guess = [
        Property("output", DataType.long),
        Property("wnid", DataType.string, required=False),
        Property("name", DataType.string),
        Property("probability", DataType.double),
    ]
    return ModelSignature(
        Schema([image, array] if recipe.input.dimensions == 2 else [array]),
        Schema([*texts, ColSpec(Array(Object(guess)), "top")]),
        ParamSchema([ParamSpec("top", DataType.long, _TOP)]),
    )
