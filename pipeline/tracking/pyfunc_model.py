"""The file that an MLflow model runs to rebuild its network (`pipeline.tracking.mlflow_model`)."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext
from PIL import Image
from safetensors.torch import load_file

from pipeline.config.cluster import LoadingConfig
from pipeline.config.recipe import read_recipe
from pipeline.data.store.encoded_images import split_in_memory
from pipeline.data.store.image_check import treat_image
from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.npy import encode_npy
from pipeline.data.store.packing import Sample
from pipeline.data.store.store import Split
from pipeline.evaluation.evaluation_config import EvaluationConfig
from pipeline.evaluation.guesses import Answer, guess, unnamed_classes
from pipeline.models.classifier import to_device
from pipeline.models.zoo import build_model
from pipeline.runtime.errors import UserError
from pipeline.runtime.precision import precision_on
from pipeline.runtime.storage import file_digest
from pipeline.tracking.mlflow_model import ARRAY, IMAGE

_CPU = torch.device("cpu")


class ServedNetwork(PythonModel):
    """Says what images, or signals, are: classes by name, with their probabilities.

    An image comes as the bytes of a file, or as an array of pixels; it is decoded, cropped and
    normalized as `ilsvrc predict` does it with Pillow, by the recipe's test protocol.
    """

    def load_context(self, context: PythonModelContext) -> None:
        self._digest = file_digest(Path(context.artifacts["weights"]))
        if (context.model_config or {}).get("weights_digest", self._digest) != self._digest:
            raise UserError(
                f"{context.artifacts['weights']}: its bytes have changed since they were stored; "
                f"download or log the model again"
            )
        recipe = read_recipe(Path(context.artifacts["recipe"]))
        classes = json.loads(Path(context.artifacts["classes"]).read_text(encoding="utf-8"))
        known = tuple(ImageClass(**each) for each in classes)
        self._recipe, self._classes = recipe, known or unnamed_classes(recipe.network.num_classes)
        network = build_model(recipe.network, recipe.input)
        network.load_state_dict(load_file(context.artifacts["weights"]))
        self._network = to_device(network, _CPU, channels_last=True)

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Return what is said of each row (`Answer.document`)."""
        config = self._evaluation_config(self._split(model_input))
        top = (params or {})["top"]
        if top < 1:
            raise _refused(f"top: {top} classes; ask for 1 or more")
        found = guess(self._network, config, self._classes, top, _CPU)
        return [
            Answer(
                self._recipe.network.name, config.protocol_name, self._digest, guesses
            ).document()
            for guesses in found
        ]

    def _evaluation_config(self, split: Split) -> EvaluationConfig:
        recipe = self._recipe
        return EvaluationConfig(
            split=split,
            protocol=recipe.evaluation,
            input=recipe.input,
            precision=precision_on(_CPU, recipe.precision),
            loading=LoadingConfig(backend="reference"),
            channels_last=True,
        )

    def _split(self, rows: pd.DataFrame) -> Split:
        """Return the images or signals of a table."""
        kind = next((name for name in (IMAGE, ARRAY) if name in rows.columns), None)
        if kind is None or not len(rows):
            raise _refused(f"no rows, or none with '{IMAGE}' or '{ARRAY}'")
        values, input = list(rows[kind]), self._recipe.input
        if input.dimensions == 1:
            return split_in_memory([_signal(value, input.size) for value in values], "signals")
        encode = _file if kind == IMAGE else _png
        samples = [treat_image(encode(value), str(row), -1) for row, value in enumerate(values)]
        for sample in samples:
            if sample.status != "ok":
                raise _refused(f"row {sample.key}: {sample.status}")
        return split_in_memory(samples)


def _file(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise _refused(f"'{IMAGE}': each row has the bytes of a file; give arrays as '{ARRAY}'")
    return value


def _png(pixels: Any) -> bytes:
    """Return pixels as a file without loss, so that they go the way of all images."""
    try:
        values = np.asarray(pixels, dtype=np.float64)
    except (TypeError, ValueError):  # rows of several lengths
        values = np.empty(0)
    is_image = values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3)
    if not is_image or not values.size or not np.isin(values, np.arange(256)).all():
        raise _refused(
            f"'{ARRAY}': an image is whole numbers from 0 to 255, (height, width) or (height, "
            "width, 3) of red, green and blue"
        )
    file = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _signal(values: Any, length: int) -> Sample:
    try:
        signal = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError):
        signal = np.empty(0, np.float32)
    if signal.shape != (length,) or not np.isfinite(signal).all():
        raise _refused(f"'{ARRAY}': a signal is {length} numbers")
    return Sample("", encode_npy(signal), -1, 1, length)


def _refused(why: str) -> MlflowException:
    """Return the error that a server answers as the client's own."""
    return MlflowException(why, error_code=INVALID_PARAMETER_VALUE)


set_model(ServedNetwork())
