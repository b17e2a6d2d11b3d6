"""The Python surface, for notebooks and scripts: what is here stays; anything else may change.

    from pipeline import api

    api.prepare_digits()
    run = api.train("lenet5_digits", {"epochs": 3})
    run.history["train/loss"].plot()

Everything runs in this process, without Ray. Mistakes raise `UserError`, in one line.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import Tensor

from pipeline.config import recipe as recipes
from pipeline.config.cluster import Cluster, load_cluster
from pipeline.config.protocol import parse_protocol
from pipeline.config.recipe import Recipe
from pipeline.data.sources import prepare
from pipeline.data.store.store import Store, store_folder
from pipeline.evaluation.ensemble import ensemble
from pipeline.evaluation.predictions import Predictions, find_predictions, read_predictions
from pipeline.evaluation.significance import PairedComparison, compare_paired
from pipeline.launch.events import Event, Report, StepsReport, ValidationReport
from pipeline.models.classifier import ImageClassifier
from pipeline.models.summary import summarize_model
from pipeline.models.zoo import NETWORKS, build_model
from pipeline.results import published as published_numbers
from pipeline.results.published import protocol_words
from pipeline.runs.evaluated_model import model_of_run
from pipeline.runs.initial_weights import find_initial_weights
from pipeline.runs.run_folder import RunFolder, find_run, name_run
from pipeline.runtime.errors import UserError
from pipeline.tracking.queries import Point, TrackedRun
from pipeline.trainer.driver import run_training
from pipeline.trainer.evaluation_run import run_evaluation
from pipeline.visualization.filters import first_layer_filters
from pipeline.visualization.pictures import look
from pipeline.visualization.trained_model import load_trained_model

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = [
    "Event",
    "PairedComparison",
    "Predictions",
    "Recipe",
    "Run",
    "StepsReport",
    "Store",
    "UserError",
    "ValidationReport",
    "accuracy_vs_operations",
    "build",
    "compare_paired",
    "curves",
    "ensemble",
    "explain",
    "filters_figure",
    "layers",
    "lecture_table",
    "load_recipe",
    "networks",
    "open_run",
    "prepare_digits",
    "prepare_folder",
    "published",
    "receptive_fields",
    "table",
    "train",
]

_QUIET = Console(quiet=True)

# Of tqdm's, in a notebook without ipywidgets, on a progress bar that nothing here shows.
warnings.filterwarnings("ignore", message="IProgress not found")


@dataclass(frozen=True)
class Run:
    """A training: its recipe, every metric, the final weights, and predictions."""

    folder: RunFolder
    cluster: Cluster

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def recipe(self) -> Recipe:
        return self.folder.recipe()

    @property
    def started(self) -> datetime:
        """When its first metric was reported, UTC."""
        with self.folder.metrics.open() as lines:
            return datetime.fromtimestamp(json.loads(next(lines))["time"] / 1000, UTC)

    @property
    def history(self) -> "pd.DataFrame":
        """Every metric, a column each, by the number of optimizer steps."""
        import pandas as pd

        rows: dict[int, dict[str, float]] = {}
        for line in self.folder.metrics.read_text().splitlines():
            record = json.loads(line)
            rows.setdefault(record["step"], {}).update(record["metrics"])
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("step").sort_index()

    def network(self) -> ImageClassifier:
        """Return the trained network, in evaluation mode, on the CPU."""
        model = model_of_run(self.folder)
        network = model.build(self.recipe.network.num_classes)
        assert isinstance(network, ImageClassifier)
        return network.eval()

    def filters(self) -> Tensor:
        """Return the weights of the first convolution, float32 (filters, channels, h, w)."""
        return first_layer_filters(self.network())

    def picture(
        self, what: str = "filters", layer: str | None = None, units: Sequence[int] | None = None
    ) -> "Figure":
        """Draw filters, activations, deconvnet or occlusion, as `ilsvrc visualize` does."""
        from pipeline.reports.feature_figures import feature_figure

        visualized = load_trained_model(self.folder, self.cluster, None)
        return feature_figure(visualized, look(visualized, what, layer, units))

    def evaluate(
        self, protocol: str | None = None, *, data: str | None = None, split: str | None = None
    ) -> Predictions:
        """Evaluate the network, by default as its recipe does; its predictions are kept.

        protocol: as of `ilsvrc evaluate`. data: a packed data set's folder.
        """
        recipe, model = self.recipe, model_of_run(self.folder)
        chosen = model.protocol
        if protocol is not None:
            chosen = parse_protocol(protocol, recipe.input.size, chosen, model.trained_sides)
        place = Path(data) if data else store_folder(self.cluster, recipe.data.name)
        split = split or recipe.data.test_split
        return run_evaluation(model, self.folder, place, split, chosen, self.cluster, _QUIET)

    def predictions(self, split: str | None = None, protocol: str | None = None) -> Predictions:
        """Return what is kept of an evaluation: the only one, or the one that is named."""
        return read_predictions(find_predictions(self.folder.path, split, protocol))


def load_recipe(name: str, changes: Mapping[str, object] | None = None) -> Recipe:
    """Load a recipe by its name in `configs/recipes`, or a YAML file.

    changes: of its values, as `{"optimizer.learning_rate": 0.05}`.
    """
    return recipes.load_recipe(name, _assignments(changes))


def build(recipe: str | Recipe) -> ImageClassifier:
    """Build a recipe's network as its training starts, in evaluation mode, on the CPU."""
    loaded = load_recipe(recipe) if isinstance(recipe, str) else recipe
    with torch.random.fork_rng():
        torch.manual_seed(loaded.seed)
        return build_model(loaded.network, loaded.input).eval()


def networks(names: Sequence[str] | None = None) -> "pd.DataFrame":
    """Return what networks are made of, or all, a row each, at their published input.

    depth: convolutions and fully connected layers on the longest path. multiply_adds: of one image.
    receptive_field: of a position of the last map, in input pixels along an axis.
    """
    import pandas as pd

    rows, names = [], list(NETWORKS if names is None else names)
    for name in names:
        summary = summarize_model(name)
        rows.append(
            {
                "input": "×".join(map(str, summary.input_shape)),
                "classes": summary.num_classes,
                "depth": summary.profile.depth,
                "parameters": summary.profile.parameters,
                "multiply_adds": summary.profile.multiply_adds,
                "receptive_field": max(summary.profile.receptive_field),
            }
        )
    return pd.DataFrame(rows, index=pd.Index(names, name="network"))


def layers(network: str) -> "pd.DataFrame":
    """Return the layers of a network in the order they are called, as `ilsvrc describe` lists them.

    Kernels, strides and fields are along the first axis; 0 where a layer has no window.
    """
    import pandas as pd

    rows = [
        {
            "layer": layer.name,
            "kind": layer.kind,
            "output": "×".join(map(str, layer.output_shape)),
            "kernel": layer.windows[0].kernel if layer.windows else 0,
            "stride": layer.windows[0].stride if layer.windows else 0,
            "parameters": layer.parameters,
            "multiply_adds": layer.multiply_adds,
            "receptive_field": layer.receptive_field[0],
        }
        for layer in summarize_model(network).profile.layers
    ]
    return pd.DataFrame(rows).set_index("layer")


def prepare_digits(to: str | Path = "data/digits") -> Store:
    """Pack the 1,797 handwritten digits that scikit-learn ships; open what is there already."""
    return prepare.prepare_digits(Path(to), _ignore).store


def prepare_folder(source: str | Path, to: str | Path, val_share: float = 0.1) -> Store:
    """Pack images in a folder for each class; open what is there already."""
    target = Path(to)
    prepared = prepare.prepare_folder(
        Path(source),
        target,
        target.name,
        val_share=val_share,
        on_bad="stop",
        num_workers=0,
        progress=_ignore,
    )
    return prepared.store


def train(
    recipe: str | Recipe,
    changes: Mapping[str, object] | None = None,
    *,
    run: str | None = None,
    start_from: str | None = None,
    new_head: bool = False,
    on_event: Report | None = None,
    cluster: Mapping[str, object] | None = None,
) -> Run:
    """Train, or go on where the same training stopped; return its run.

    recipe: its name, a file, or one that is loaded. run: the run's name, by default the recipe's
    with its digest. start_from: a run or [FORMAT:]FILE, whose weights all layers have, with
    `new_head` all but those that give logits. on_event: is called with every report of the
    training, such as `StepsReport` and `ValidationReport`; `pipeline.launch.events` has all.
    cluster: values of the cluster `laptop`, as `{"data_dir": "/data"}`.
    """
    name = recipe if isinstance(recipe, str) else recipe.network.name
    loaded = load_recipe(recipe, changes) if isinstance(recipe, str) else recipe
    here = _here(cluster)
    result = run_training(
        loaded, Path(name).stem, here, run, _QUIET, start_from, on_event=on_event, new_head=new_head
    )
    if result:
        return Run(result.folder, here)
    start = None  # it was complete already
    if start_from:
        start = find_initial_weights(here.runs_dir, start_from, loaded, new_head=new_head)
    digest = start.digest if start else ""
    folder = name_run(here.runs_dir, run, loaded, Path(name).stem, digest, new_head=new_head)
    return Run(folder, here)


def open_run(name: str, cluster: Mapping[str, object] | None = None) -> Run:
    """Open a run by its name, or its folder."""
    here = _here(cluster)
    return Run(find_run(here.runs_dir, name), here)


def table(predictions: Predictions) -> "pd.DataFrame":
    """Return predictions as a table, a row an image, by the image's key.

    label, guess: names of classes, the label empty where it is unknown. probability: of the guess.
    rank: how many classes come before the label, so that top-5 counts ranks below 5.
    """
    import pandas as pd

    names = [each.name for each in predictions.classes]
    guesses = predictions.guesses[:, 0]
    probabilities = predictions.probabilities[range(len(predictions)), guesses]
    return pd.DataFrame(
        {
            "label": [names[label] if label >= 0 else "" for label in predictions.labels],
            "guess": [names[guess] for guess in guesses],
            "probability": probabilities.astype(float),
            "rank": predictions.ranks,
        },
        index=pd.Index(predictions.keys, name="image"),
    )


def published(network: str | None = None) -> "pd.DataFrame":
    """Return the published results of a network, or all, with protocol and source."""
    import pandas as pd

    rows: list[dict[str, Any]] = [
        result.model_dump()
        for result in published_numbers.published()
        if network in (None, result.network)
    ]
    if not rows:
        raise UserError(f"nothing is published of '{network}'; published() has all there is")
    return pd.DataFrame(rows)


def lecture_table() -> "pd.DataFrame":
    """Return the numbers that lectures show, a row each: what each is, and what one network has.

    one_network: the top-5 errors on the validation images that a single network compares with.
    """
    import pandas as pd

    rows = [
        {
            "shown_as": entry.name,
            "top5_error": entry.top5_error,
            "meaning": entry.meaning,
            "one_network": "; ".join(
                f"{one.network} {one.top5_error} ({protocol_words(one.protocol)})"
                for one in entry.instead
            ),
        }
        for entry in published_numbers.lecture_table()
    ]
    return pd.DataFrame(rows).set_index("shown_as")


def explain(number: str) -> str:
    """Say what a published number is, as "alexnet 15.3": of how many networks, crops, images."""
    from pipeline.reports.published_number import explain_number, find_published

    return "\n".join(
        line for found in find_published(number) for line in explain_number(found, [])[:-1]
    )


def accuracy_vs_operations() -> "Figure":
    """Draw the published accuracy of every network over its operations (Canziani et al. 2016)."""
    from pipeline.reports.accuracy_vs_operations import operations_figure, published_markers

    return operations_figure(published_markers(), "ILSVRC-2012 val, one view, published")


def receptive_fields(names: Sequence[str]) -> "Figure":
    """Draw how the receptive fields of networks grow from layer to layer."""
    from pipeline.reports.receptive_fields import receptive_field_figure

    return receptive_field_figure([summarize_model(name) for name in names])


def filters_figure(network: ImageClassifier, source: str) -> "Figure":
    """Draw the filters of a network's first layer; source: what the picture says of the network."""
    from pipeline.reports import feature_figures

    return feature_figures.filters_figure(first_layer_filters(network), source)


def curves(runs: Sequence[Run]) -> dict[str, "Figure"]:
    """Draw the learning curves of runs, a figure each by its title, as in a report.

    What would be straight lines alone, as a constant learning rate, is left out.
    """
    from pipeline.reports.learning_curves import MetricHistory, curve_figures

    histories = []
    for colour, run in enumerate(runs):
        history = run.history
        points = {}
        for name in history.columns.tolist():
            known = history[name].dropna()
            pairs = zip(known.index.tolist(), known.tolist(), strict=True)
            points[str(name)] = [Point(step, value) for step, value in pairs]
        recipe = run.recipe
        params = {"recipe.network.num_classes": str(recipe.network.num_classes)}
        tags = {"dataset.name": recipe.data.name}
        tracked = TrackedRun("", run.name, "FINISHED", run.started, params, tags, {})
        histories.append(MetricHistory(tracked, points, colour))
    return curve_figures(histories)


def _here(changes: Mapping[str, object] | None) -> Cluster:
    return load_cluster("laptop", ["workers.count=0", *_assignments(changes)])


def _assignments(changes: Mapping[str, object] | None) -> list[str]:
    # JSON is YAML.
    return [f"{key}={json.dumps(value)}" for key, value in (changes or {}).items()]


def _ignore(done: int, total: int) -> None:
    """Show no progress."""
