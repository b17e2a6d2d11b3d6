"""Weights that a training starts from, in place of random ones."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.config.recipe import InputConfig, Recipe
from pipeline.models.classifier import ImageClassifier, StartingLayers
from pipeline.models.freezing import freeze_until
from pipeline.models.weights_file import read_weights
from pipeline.models.zoo import build_model, constructor
from pipeline.pretrained.formats import read_pretrained
from pipeline.pretrained.pretrained_weights import PretrainedWeights
from pipeline.runs.run_folder import RunFolder, find_start
from pipeline.runtime.errors import UserError
from pipeline.runtime.storage import file_digest


@dataclass(frozen=True)
class WeightsSource:
    """A file of weights for `network`: of this project's, or of a `format` of elsewhere."""

    file: Path
    network: str
    format: str = ""

    @property
    def name(self) -> str:
        return f"{self.format}:{self.file}" if self.format else str(self.file)

    def read(self) -> "SourceWeights":
        """Read the weights onto the CPU; raises `UserError` where they don't fit the network."""
        if not self.format:
            return SourceWeights(read_weights(self.file))
        read = read_pretrained(self.format, self.file, self.network)
        if read.network != self.network:
            raise UserError(
                f"these are weights of {read.network}, the recipe trains {self.network}; add "
                f"--set network.name={read.network}"
            )
        weights, remarks = read.weights, read.remarks
        if read.preprocessing.colors == "bgr":
            weights = _of_rgb(read)
            remarks = (*remarks, "they were trained on blue, green, red; now on red, green, blue")
        return SourceWeights(weights, read.preprocessing.input, remarks)


@dataclass(frozen=True)
class SourceWeights:
    """Weights of a network that sees red first, the input it was trained on, if known, remarks."""

    weights: Mapping[str, Tensor]
    input: InputConfig | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class InitialWeights:
    """Where a training starts: weights, their file's digest, and what is taken of them.

    `name` is what the user called them by: a run, or [FORMAT:]FILE. `dataset_digest` is that of the
    data that they were trained on, if known. `layers` are those that have them, and those that are
    new, which with `new_head` are at least the head; `remarks` tell the user of both.
    """

    source: WeightsSource
    name: str
    digest: str
    dataset_digest: str | None
    layers: StartingLayers
    new_head: bool = False
    remarks: tuple[str, ...] = ()

    def extra_data(self, dataset_digest: str) -> str:
        """Return what data, besides the data set of this digest, a training from them has used."""
        return "none" if self.dataset_digest == dataset_digest else f"start {self.digest[:8]}"

    def load_into(self, model: ImageClassifier) -> None:
        """Give `model`, as it was built, the weights."""
        model.start_from(self.source.read().weights, new_head=self.new_head)


def find_initial_weights(
    runs_dir: Path, name: str, recipe: Recipe, *, new_head: bool = False
) -> InitialWeights:
    """Return the final weights of the run, or the file, `name`, which must fit the recipe.

    A file from elsewhere is FORMAT:FILE (see `pretrained.formats`). With `new_head` its weights may
    be for other classes. Raises `UserError` where there is neither, for a run that is not trained
    yet, a file that holds anything but weights, and weights that don't fit, by the layer's name.
    """
    network, dataset_digest, trained_on = recipe.network.name, None, None
    start = find_start(runs_dir, name)
    if isinstance(start, RunFolder):
        dataset_digest, trained_on = _data_of_run(start), start.recipe().input
        source = WeightsSource(start.weights, network)
    else:
        source = WeightsSource(start.path.absolute(), network, start.format)
    with torch.device("meta"):
        model = build_model(recipe.network, recipe.input)
    try:
        read = source.read()
        weights = {key: value.to("meta") for key, value in read.weights.items()}
        layers = model.start_from(weights, new_head=new_head)
    except UserError as error:
        raise UserError(f"--start-from {name}: {error}") from None
    remarks = (
        *read.remarks,
        *_on_layers(layers, model, recipe),
        *_on_input(read.input or trained_on, recipe.input),
    )
    return InitialWeights(
        source, name, file_digest(source.file), dataset_digest, layers, new_head, remarks
    )


def _data_of_run(run: RunFolder) -> str:
    record = run.trained_record()
    # Where the run itself started from other data, its one digest doesn't tell all of them.
    return record.dataset_digest if record.extra_data == "none" else ""


def _of_rgb(read: PretrainedWeights) -> dict[str, Tensor]:
    """Return weights whose first layer takes red, green, blue in place of the reverse."""
    with torch.device("meta"):
        model = constructor(read.network)(read.num_classes, read.num_channels)
    first, _ = next(model.named_parameters())
    return {**read.weights, first: read.weights[first].flip(1)}


def _on_layers(layers: StartingLayers, model: ImageClassifier, recipe: Recipe) -> Iterator[str]:
    yield f"loaded: {', '.join(layers.loaded)}"
    if layers.new:
        yield f"new: {', '.join(layers.new)}, for {recipe.network.num_classes} classes"
    if recipe.freeze_until:
        frozen = freeze_until(model, recipe.freeze_until)
        yield f"frozen, with the statistics of their batch norm: {', '.join(frozen)}"


def _on_input(trained_on: InputConfig | None, input: InputConfig) -> Iterator[str]:
    """Warn where the recipe's images come to the network in other numbers than it knows."""
    if trained_on is None:
        return
    if trained_on.color != input.color:
        yield f"they were trained with input.color={trained_on.color}, not {input.color}"
        return
    for key, theirs, ours in (
        ("mean", trained_on.mean, input.mean),
        ("std", trained_on.std, input.std),
    ):
        if not all(
            math.isclose(a, b, rel_tol=1e-3, abs_tol=0.05)
            for a, b in zip(theirs, ours, strict=True)
        ):
            values = ", ".join(f"{value:g}" for value in theirs)
            yield f"they were trained with another input.{key}; add --set 'input.{key}=[{values}]'"
