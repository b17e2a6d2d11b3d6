"""What the page shows, from the tracking store and from the runs' folders where they are here."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from pipeline.config.cluster import Cluster
from pipeline.data.store.store import Store, store_folder
from pipeline.evaluation.predictions import kept_predictions, read_predictions
from pipeline.models.zoo import constructor
from pipeline.reports.learning_curves import PANELS, MetricCourse
from pipeline.reports.page import Filters, PredictedSplit, Reported
from pipeline.runtime.errors import UserError
from pipeline.tracking.measured_runs import measured_from_runs
from pipeline.tracking.queries import TrackedRun, evaluated_runs, histories, named_runs
from pipeline.visualization.filters import read_filters
from pipeline.visualization.pictures import filters_picture


def load_page_data(
    uri: str, experiment: str, names: Sequence[str] | None, cluster: Cluster
) -> list[Reported]:
    """Read the runs of an experiment, oldest first; the evaluations of each belong to it.

    Curves need the store alone; filters and pictures are left out where a run's folder, or its
    data, is not on this machine. Raises `UserError` for an experiment without runs.
    """
    runs = evaluated_runs(uri, experiment)
    chosen = named_runs(runs, names)
    trainings = [run for run in chosen if not run.parent]
    if not trainings:
        raise UserError(f"experiment '{experiment}' has no runs to report; train a network first")
    reported = []
    for colour, run in enumerate(reversed(trainings)):
        own = [*(child for child in chosen if child.parent == run.run_id), run]
        folder = cluster.runs_dir / run.tags.get("evaluation.run", run.name)
        reported.append(
            Reported(
                MetricCourse(run, histories(uri, run, _metrics(run)), colour),
                measured_from_runs(own),
                _filters(run, folder / "weights.safetensors"),
                tuple(_seen(folder, cluster)),
            )
        )
    return reported


def _metrics(run: TrackedRun) -> list[str]:
    panels = [panel.train for panel in PANELS]
    tests = tuple(panel.test for panel in PANELS if panel.test)
    return panels + [
        name for name in run.metrics if name.startswith("eval/") and name.endswith(tests)
    ]


def _filters(run: TrackedRun, weights: Path) -> Filters | None:
    params = run.params
    channels = 1 if params.get("recipe.input.color") == "gray" else 3
    try:
        with torch.device("meta"):
            build = constructor(params.get("recipe.network.name", ""))
            model = build(int(params["recipe.network.num_classes"]), channels)
        filters = read_filters(weights, model)
    except (UserError, KeyError):
        return None
    picture = filters_picture(filters)
    png = io.BytesIO()
    picture.save(png, "PNG", optimize=True)
    count, channels, height, width = filters.shape
    return Filters(png.getvalue(), picture.width, f"{count} of {height}×{width}×{channels}")


def _seen(folder: Path, cluster: Cluster) -> Iterator[PredictedSplit]:
    for path in kept_predictions(folder):
        predictions = read_predictions(path)
        about = predictions.metadata
        try:
            store = Store.open(store_folder(cluster, about.data), cluster.cache)
        except UserError:
            continue
        if store.digest == about.data_digest and store.contents == "images":
            yield PredictedSplit(predictions, store.split(about.split))
