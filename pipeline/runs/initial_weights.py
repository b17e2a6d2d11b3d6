"""Weights that a training starts from, in place of random ones."""

from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.config.recipe import Recipe
from pipeline.models.weights_file import read_weights
from pipeline.models.zoo import build_model
from pipeline.runs.run_folder import RunFolder, find_run
from pipeline.runtime.errors import UserError
from pipeline.runtime.storage import file_digest


@dataclass(frozen=True)
class InitialWeights:
    """A file of weights, its digest, and that of the data that they were trained on, if known.

    `name` is what the user called it by: a run or a file.
    """

    file: Path
    name: str
    digest: str
    dataset_digest: str | None

    def extra_data(self, dataset_digest: str) -> str:
        """Return what data, besides the data set of this digest, a training from them has used."""
        return "none" if self.dataset_digest == dataset_digest else f"start {self.digest[:8]}"


def find_initial_weights(runs_dir: Path, name: str, recipe: Recipe) -> InitialWeights:
    """Return the final weights of the run, or the file, `name`, which must fit the recipe.

    Raises `UserError` where there is neither, for a run that is not trained yet, a file that holds
    anything but weights, and weights that don't fit, by the layer's name.
    """
    dataset_digest = None
    if Path(name).is_file():
        file = Path(name).absolute()
    else:
        file, dataset_digest = _of_run(find_run(runs_dir, name))
    weights = read_weights(file)
    with torch.device("meta"):
        model = build_model(recipe.network, recipe.input)
    try:
        model.start_from({key: value.to("meta") for key, value in weights.items()})
    except UserError as error:
        raise UserError(f"--start-from {name}: {error}") from None
    return InitialWeights(file, name, file_digest(file), dataset_digest)


def _of_run(run: RunFolder) -> tuple[Path, str]:
    record = run.trained_record()
    # Where the run itself started from other data, its one digest doesn't tell all of them.
    return run.weights, record.dataset_digest if record.extra_data == "none" else ""
