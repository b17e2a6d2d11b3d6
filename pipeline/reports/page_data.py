"""What the page shows of each run, from the tracking store and, if present, the run's folder."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.config.cluster import Cluster
from pipeline.data.store.store import Split, Store, store_folder
from pipeline.evaluation.predictions import Predictions, kept_predictions, read_predictions
from pipeline.models.zoo import constructor
from pipeline.reports.figure_style import SERIES
from pipeline.reports.learning_curves import PANELS, MetricHistory, source_of
from pipeline.results.measured import Measured
from pipeline.runtime.errors import UserError
from pipeline.tracking.measured_runs import measured_from_runs
from pipeline.tracking.queries import TrackedRun, evaluated_runs, histories, named_runs
from pipeline.visualization.filters import filters_image, read_filters

# Of more trainings than there are colours only the newest are drawn. A second each is what a run's
# history and its own figures take.
MOST_DRAWN = len(SERIES)


@dataclass(frozen=True)
class FilterImage:
    """The first-layer filters of a run, as a PNG file of `width` pixels."""

    png: bytes
    width: int
    caption: str


@dataclass(frozen=True)
class PredictedSplit:
    """Stored predictions, and the split with their images."""

    predictions: Predictions
    split: Split


@dataclass(frozen=True)
class ReportedRun:
    """All that the page shows of one run; `evaluations` are the tracked ones of it, oldest first.

    The run is a training, or an evaluation of an ensemble or of weights from elsewhere. One that is
    not drawn has its results and facts alone: no history, filters or predictions.
    """

    history: MetricHistory
    results: Sequence[Measured]
    evaluations: Sequence[TrackedRun] = ()
    filters: FilterImage | None = None
    predictions: Sequence[PredictedSplit] = ()
    is_drawn: bool = True

    @property
    def run(self) -> TrackedRun:
        return self.history.run

    @property
    def name(self) -> str:
        """The run's name; of an ensemble or of weights from elsewhere, the evaluated name."""
        return self.run.tags.get("evaluation.run", self.run.name)

    @property
    def source(self) -> str:
        """Which data it learned, how it was tested meanwhile, and when, for a picture."""
        return source_of([self.history])

    @property
    def commands(self) -> list[str]:
        """The command lines that made the run and its evaluations, as far as recorded."""
        recorded = [run.tags.get("command") for run in (self.run, *self.evaluations)]
        return list(dict.fromkeys(command for command in recorded if command))

    @property
    def recipe(self) -> dict[str, str]:
        """The recipe's values as tracked, by their keys, such as "network.name"."""
        prefix = "recipe."
        params = self.run.params.items()
        return {key.removeprefix(prefix): value for key, value in params if key.startswith(prefix)}


def load_page_data(
    uri: str, experiment: str, names: Sequence[str] | None, cluster: Cluster
) -> list[ReportedRun]:
    """Read the runs of an experiment with their evaluations, oldest first.

    The newest `MOST_DRAWN` are drawn; only their histories are asked of the store. Filters and
    predictions are left out if the run's folder or its data are not on this machine.
    Raises `UserError` for an experiment without runs.
    """
    chosen = named_runs(evaluated_runs(uri, experiment), names)
    trainings = [run for run in chosen if not run.parent]
    if not trainings:
        raise UserError(f"experiment '{experiment}' has no runs to report; train a network first")
    reported = []
    for colour, run in enumerate(reversed(trainings)):
        evaluations = [child for child in chosen if child.parent == run.run_id]
        results = measured_from_runs([*evaluations, run])
        if colour < len(trainings) - MOST_DRAWN:
            plain = MetricHistory(run, {}, colour)
            reported.append(ReportedRun(plain, results, evaluations[::-1], is_drawn=False))
            continue
        # The last part, since a name in a store that others write to may be a path elsewhere.
        folder = cluster.runs_dir / Path(run.tags.get("evaluation.run", run.name)).name
        reported.append(
            ReportedRun(
                MetricHistory(run, histories(uri, run, _metric_names(run)), colour),
                results,
                evaluations[::-1],
                _filters(run, folder / "weights.safetensors"),
                list(_predictions(folder, cluster)),
            )
        )
    return reported


def _metric_names(run: TrackedRun) -> list[str]:
    training = [panel.train for panel in PANELS]
    suffixes = tuple(panel.test for panel in PANELS if panel.test)
    return training + [
        name for name in run.metrics if name.startswith("eval/") and name.endswith(suffixes)
    ]


def _filters(run: TrackedRun, weights: Path) -> FilterImage | None:
    params = run.params
    channels = 1 if params.get("recipe.input.color") == "gray" else 3
    try:
        with torch.device("meta"):
            build = constructor(params.get("recipe.network.name", ""))
            model = build(int(params["recipe.network.num_classes"]), channels)
        filters = read_filters(weights, model)
    except (UserError, KeyError):
        return None
    image = filters_image(filters)
    png = io.BytesIO()
    image.save(png, "PNG", optimize=True)
    count, channels, height, width = filters.shape
    return FilterImage(png.getvalue(), image.width, f"{count} of {height}×{width}×{channels}")


def _predictions(folder: Path, cluster: Cluster) -> Iterator[PredictedSplit]:
    for path in kept_predictions(folder):
        predictions = read_predictions(path)
        metadata = predictions.metadata
        try:
            store = Store.open(store_folder(cluster, metadata.data), cluster.cache)
        except UserError:
            continue
        if store.digest == metadata.data_digest and store.contents == "images":
            yield PredictedSplit(predictions, store.split(metadata.split))
