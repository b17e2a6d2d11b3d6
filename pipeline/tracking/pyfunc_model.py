"""The file that an MLflow model runs to rebuild its network (`pipeline.tracking.mlflow_model`)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from safetensors.torch import load_file

from pipeline.config.recipe import read_recipe
from pipeline.models.zoo import build_model
from pipeline.runtime.errors import UserError
from pipeline.runtime.storage import file_digest


class ServedNetwork(PythonModel):
    """Maps normalised images, float32 (n, c, h, w), or signals, (n, 1, length), to logits.

    Logits are float32 (n, num_classes).
    """

    def load_context(self, context: PythonModelContext) -> None:
        digest = (context.model_config or {}).get("weights_digest")
        if digest and file_digest(Path(context.artifacts["weights"])) != digest:
            raise UserError(
                f"{context.artifacts['weights']}: its bytes have changed since they were stored; "
                f"download or log the model again"
            )
        recipe = read_recipe(Path(context.artifacts["recipe"]))
        self._network = build_model(recipe.network, recipe.input)
        self._network.load_state_dict(load_file(context.artifacts["weights"]))
        self._network.eval()

    def predict(
        self,
        context: PythonModelContext,
        model_input: np.ndarray,
        params: dict[str, Any] | None = None,
    ) -> np.ndarray:
        with torch.inference_mode():
            logits: torch.Tensor = self._network(torch.from_numpy(model_input))
        return logits.numpy()


set_model(ServedNetwork())
