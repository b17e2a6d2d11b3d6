"""An evaluation by any protocol: on the workers, and as the command sees it."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pipeline.checks.preflight import refuse_cluster
from pipeline.config.cluster import Cluster, Folder
from pipeline.config.protocol import TestProtocol
from pipeline.config.yaml import flatten
from pipeline.data.loading.loader import Batch, check_contents
from pipeline.data.loading.plans import share_of
from pipeline.data.store.store import Store, store_folder
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.metrics import Counts
from pipeline.evaluation.prediction_writer import PredictionWriter
from pipeline.evaluation.predictions import (
    PREDICTIONS,
    PredictionMetadata,
    Predictions,
    predictions_file,
    read_predictions,
)
from pipeline.launch.events import Message, Report
from pipeline.launch.progress_display import ProgressDisplay
from pipeline.launch.ray_train import run_on_workers
from pipeline.launch.training_job import open_data, watched
from pipeline.models.classifier import to_device
from pipeline.runs.evaluated_model import EvaluatedModel
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.weights_source import WeightsSource, prediction_metadata
from pipeline.runtime.distributed import Worker
from pipeline.runtime.errors import UserError
from pipeline.tracking import mlflow_runs
from pipeline.tracking.environment import environment_tags
from pipeline.tracking.queries import tracked_run

_SECONDS_BETWEEN_NOTES = 30.0


@dataclass(frozen=True)
class Evaluation:
    """What every worker is told: which network, on which images, how, and where to keep it."""

    subject: EvaluatedModel
    data: Folder
    split: str
    protocol: TestProtocol
    cluster: Cluster
    folder: RunFolder
    about: PredictionMetadata

    @property
    def file(self) -> Path:
        return predictions_file(self.folder.path, self.about.seen_split, self.about.protocol)


def run_evaluation(
    subject: EvaluatedModel,
    origin: WeightsSource,
    data: Folder,
    split: str,
    protocol: TestProtocol,
    cluster: Cluster,
    console: Console,
    command: str | None = None,
) -> Predictions:
    """Evaluate `subject` on `split` of the data set in `data`; keep and return its predictions.

    The MLflow run is a child of the one that trained the network, and the same evaluation's
    repetition goes on with it, with its own `command`. Where labels are unknown nothing is scored.
    Raises `UserError` for what can be known before any worker starts.
    """
    refuse_cluster(cluster)
    store = Store.open(data, cluster.cache)
    images = store.split(split)
    check_contents(images, subject.input)
    subject.refuse_unfit(len(store.classes))
    if origin.dataset_digest and data == store_folder(cluster, origin.data):
        _refuse_other_data(origin, store)
    said = prediction_metadata(subject, origin, store, split, protocol)
    origin.folder.path.mkdir(parents=True, exist_ok=True)
    evaluation = Evaluation(subject, data, split, protocol, cluster, origin.folder, said)
    with ProgressDisplay(console) as display:
        views = protocol.num_views
        display.show(
            Message(f"{len(images):,} images of {split}, {views} view{'s' * (views > 1)} of each")
        )
        run_on_workers(evaluate_on_worker, evaluation, display.show)
    predictions = read_predictions(evaluation.file)
    track(predictions, evaluation.file, cluster, origin.tracking_run_id, command)
    return predictions


def evaluate_on_worker(evaluation: Evaluation, worker: Worker, report: Report) -> Counts:
    """Evaluate this worker's share, and keep its predictions. A collective call."""
    cluster, subject = evaluation.cluster, evaluation.subject
    store = open_data(cluster, evaluation.data)
    split = store.split(evaluation.split)
    model = subject.build(len(store.classes))
    model = to_device(model, worker.device, channels_last=cluster.channels_last)
    setting = subject.setting(split, evaluation.protocol, cluster)
    gathered = PredictionWriter(evaluation.file, len(split), worker)
    share = len(share_of(len(split), worker.rank, worker.world_size))
    with watched(evaluation, worker, report) as watchdog:

        def watch(batches: Iterable[Batch]) -> Iterator[Batch]:
            batches = watchdog.counted(batches)
            return _noted(batches, share, report) if worker.is_first else iter(batches)

        counts = evaluate(model, setting, worker, watch, gathered)
        if worker.is_first:
            gathered.join(split, store.classes, evaluation.about)
    return counts


def track(
    predictions: Predictions,
    file: Path,
    cluster: Cluster,
    parent_run_id: str | None = None,
    command: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Record an evaluation in MLflow, its predictions as an artifact; return the run's id.

    `tags` are for the run besides those of the evaluation.
    """
    about, uri, experiment = predictions.about, cluster.tracking.uri, cluster.tracking.experiment
    identity = _identity(about)
    if parent_run_id and mlflow_runs.is_there(uri, parent_run_id):
        identity["mlflow.parentRunId"] = parent_run_id
    run_id = mlflow_runs.start_run(
        uri,
        experiment,
        run_name=f"{about.run} {about.split} {about.protocol}",
        params={
            "recipe.network.name": about.network,
            **{f"evaluation.{key}": value for key, value in about.model_dump().items()},
            **{f"cluster.{key}": value for key, value in flatten(cluster).items()},
        },
        tags={
            **environment_tags(cluster.workers.device),
            **identity,
            "dataset.name": about.training_data,
            "dataset.extra": about.extra_data,
            "ensemble.size": str(about.ensemble_size),
            "weights.digest": about.weights_digest,
            **({"command": command} if command else {}),
            **(tags or {}),
        },
        existing_run_id=mlflow_runs.run_with_tags(uri, experiment, identity),
    )
    if (predictions.labels >= 0).all():
        mlflow_runs.log_metrics(uri, run_id, _metrics(predictions))
    mlflow_runs.log_files(uri, run_id, [file], PREDICTIONS)
    mlflow_runs.finish_run(uri, run_id, "FINISHED")
    return run_id


def is_tracked(about: PredictionMetadata, cluster: Cluster) -> bool:
    """Whether MLflow has this evaluation, with all that `track` records."""
    uri = cluster.tracking.uri
    run_id = mlflow_runs.run_with_tags(uri, cluster.tracking.experiment, _identity(about))
    return run_id is not None and tracked_run(uri, run_id).status == "FINISHED"


def _identity(about: PredictionMetadata) -> dict[str, str]:
    """Return the tags by which an evaluation is found again."""
    return {
        "kind": "evaluation",
        "evaluation.run": about.run,
        "split": about.split,
        "protocol": about.protocol,
        "evaluation.data": about.data,
        "dataset.digest": about.data_digest,
    }


def _metrics(predictions: Predictions) -> dict[str, float]:
    counts, about = predictions.counts, predictions.about
    # Images of a data set that wasn't trained on are a split of their own.
    split = about.seen_split if about.is_foreign else about.split
    prefix = f"eval/{split}/{about.protocol}"
    return {f"{prefix}/{name}": value for name, value in counts.metrics.items()}


def _noted(batches: Iterable[Batch], share: int, report: Report) -> Iterator[Batch]:
    """Yield `batches`, and tell now and then how many images of this pass are done."""
    started = told = time.monotonic()
    seen = 0
    for batch in batches:
        yield batch
        seen += len(batch.indices.unique())
        now = time.monotonic()
        if now - told > _SECONDS_BETWEEN_NOTES:
            told, rate = now, seen / (now - started)
            report(
                Message(
                    f"the first worker has seen {seen:,} of its {share:,}, {rate:,.1f} a second"
                )
            )


def _refuse_other_data(origin: WeightsSource, store: Store) -> None:
    if origin.dataset_digest != store.digest:
        raise UserError(
            f"run '{origin.folder.name}' belongs to another data set than {store.folder} holds "
            "now; bring that one back, or name the one to evaluate on with --data"
        )
