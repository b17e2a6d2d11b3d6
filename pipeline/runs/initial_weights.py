"""Weights that a training starts from, in place of the random start."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.config.recipe import Recipe
from pipeline.models.weights_file import read_weights
from pipeline.models.zoo import build_model
from pipeline.runs.run_folder import RunFolder, find_run
from pipeline.runtime.errors import UserError


@dataclass(frozen=True)
class InitialWeights:
    """A file of weights by its digest, and the digest of the data they learnt, where it is known.

    `origin` is how it was named: a run or a file.
    """

    file: Path
    origin: str
    digest: str
    dataset_digest: str | None

    def extra_data(self, dataset_digest: str) -> str:
        """Say what a training on the data set of this digest has seen besides it."""
        return "none" if self.dataset_digest == dataset_digest else f"start {self.digest[:8]}"


def find_initial_weights(runs_dir: Path, origin: str, recipe: Recipe) -> InitialWeights:
    """Find the final weights of run `origin`, or the file, and see that they fit the recipe.

    Raises `UserError` for what is neither, for a run that is not trained yet, a file that holds
    anything but weights, and weights that don't fit, by the layer's name.
    """
    dataset_digest = None
    if Path(origin).is_file():
        file = Path(origin).absolute()
    else:
        file, dataset_digest = _of_run(find_run(runs_dir, origin))
    weights = read_weights(file)
    with torch.device("meta"):
        model = build_model(recipe.network, recipe.input)
    try:
        model.start_from({name: value.to("meta") for name, value in weights.items()})
    except UserError as error:
        raise UserError(f"--start-from {origin}: {error}") from None
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return InitialWeights(file, origin, digest, dataset_digest)


def _of_run(run: RunFolder) -> tuple[Path, str]:
    record = run.trained_record()
    # A start from other data goes on into what starts from this.
    return run.weights, record.dataset_digest if record.extra_data == "none" else ""
