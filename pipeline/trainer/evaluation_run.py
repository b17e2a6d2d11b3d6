"""An evaluation by any protocol: the command's part, and that of the workers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from rich.console import Console
from torch import nn

from pipeline.checks.preflight import refuse_cluster
from pipeline.config.cluster import Cluster, Folder
from pipeline.config.protocol import TestProtocol
from pipeline.config.yaml import flatten
from pipeline.data.loading.loader import Batch, check_contents
from pipeline.data.loading.plans import share_of
from pipeline.data.store.store import Store, store_folder
from pipeline.evaluation.class_mapping import (
    SORTED_NUMBERS,
    ClassMapping,
    map_classes,
    read_numbering,
)
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
from pipeline.launch.events import Message, Phase, Report
from pipeline.launch.progress_display import ProgressDisplay
from pipeline.launch.ray_train import run_on_workers
from pipeline.launch.training_job import open_data, watched
from pipeline.models.classifier import to_device
from pipeline.planning.evaluation_cost import is_soonest_alone
from pipeline.results.measured import measured_from_predictions
from pipeline.runs.evaluated_model import EvaluatedModel
from pipeline.runs.run_folder import RunFolder, RunRecord
from pipeline.runtime.distributed import Worker
from pipeline.runtime.errors import UserError
from pipeline.runtime.plain_text import markdown_code
from pipeline.tracking import mlflow_page, mlflow_runs
from pipeline.tracking.environment import environment_tags
from pipeline.tracking.measured_runs import images_tag
from pipeline.tracking.queries import tracked_run
from pipeline.tracking.run_note import run_note
from pipeline.trainer.batch_progress import reported_images


@dataclass(frozen=True)
class ClassOptions:
    """How a network's outputs are matched with a data set's classes; see `map_classes`."""

    numbering: str | None = None
    restrict: bool = False

    def build(self, model: EvaluatedModel, store: Store) -> nn.Module:
        """Build the network; where its classes are not known, with as many as declared or given."""
        if self.numbering and self.numbering != SORTED_NUMBERS:
            return model.build(len(read_numbering(Path(self.numbering))))
        return model.build(len(store.classes))

    def mapping(
        self, model: EvaluatedModel, store: Store, built: nn.Module | None = None
    ) -> ClassMapping:
        """Return the mapping; raises `UserError` where there is none, or the network is broken.

        A network that has to be tried to tell its outputs is built, unless it is `built` already.
        """
        return map_classes(
            store.classes,
            model.classes,
            model.num_outputs(lambda: built or self.build(model, store)),
            numbering=self.numbering,
            restrict=self.restrict,
        )


AS_NAMED = ClassOptions()


@dataclass(frozen=True)
class EvaluationJob:
    """The job of every worker: which network, on which images, how, and where results go."""

    model: EvaluatedModel
    data: Folder
    split: str
    protocol: TestProtocol
    cluster: Cluster
    folder: RunFolder
    metadata: PredictionMetadata
    mapping: ClassMapping

    @property
    def precision(self) -> str:
        return self.model.precision

    def in_precision(self, precision: str) -> Self:
        """Return the same evaluation, computed in `precision`."""
        metadata = self.metadata.model_copy(update={"precision": precision})
        return replace(self, model=replace(self.model, precision=precision), metadata=metadata)

    @property
    def file(self) -> Path:
        metadata = self.metadata
        return predictions_file(self.folder.path, metadata.qualified_split, metadata.protocol)


def run_evaluation(
    model: EvaluatedModel,
    folder: RunFolder,
    data: Folder,
    split: str,
    protocol: TestProtocol,
    cluster: Cluster,
    console: Console,
    command: str | None = None,
    class_options: ClassOptions = AS_NAMED,
) -> Predictions:
    """Evaluate `model` on `split` of the data set in `data`; return its predictions.

    They are stored in `folder`: that of the run that trained the network, or an external network's.
    The MLflow run is a child of the one that trained the network; a repetition of the same
    evaluation continues it, with its own `command`. Without known labels nothing is scored. Raises
    `UserError` for what can be checked before any worker starts. One that is done before workers
    could start is computed in this process.
    """
    with ProgressDisplay(console) as display:
        display.show(Phase("checks"))
        refuse_cluster(cluster)
        store = Store.open(data, cluster.cache)
        images = store.split(split)
        check_contents(images, model.input)
        mapping = class_options.mapping(model, store)
        record = folder.record()
        if record and data == store_folder(cluster, folder.recipe().data.name):
            _refuse_other_data(folder, record, store)
        suffix = mapping.protocol_suffix
        metadata = model.prediction_metadata(folder, store, split, protocol, suffix)
        folder.path.mkdir(parents=True, exist_ok=True)
        if is_soonest_alone(model, images, protocol, cluster):
            cluster = cluster.in_this_process()
        job = EvaluationJob(model, data, split, protocol, cluster, folder, metadata, mapping)
        views = protocol.num_views
        display.show(
            Message(f"{len(images):,} images of {split}, {views} view{'s' * (views > 1)} of each")
        )
        if mapping.note and metadata.training_digest != store.digest:
            display.show(Message(mapping.note))
        run_on_workers(evaluate_on_worker, job, display.show)
    predictions = read_predictions(job.file)
    track(predictions, job.file, cluster, folder.tracking_run_id(), command)
    return predictions


def evaluate_on_worker(job: EvaluationJob, worker: Worker, report: Report) -> Counts:
    """Evaluate this worker's share, and store its predictions. A collective call."""
    if worker.is_first:
        report(Phase("data"))
    store = open_data(job.cluster, job.data)
    split = store.split(job.split)
    mapping = job.mapping
    model = job.model.build(mapping.num_outputs)
    model = to_device(model, worker.device, channels_last=job.cluster.channels_last)
    config = job.model.evaluation_config(split, job.protocol, job.cluster, mapping.selected)
    if worker.is_first:
        report(Phase("first batch"))
    writer = PredictionWriter(job.file, len(split), worker)
    num_images = len(share_of(len(split), worker.rank, worker.world_size))
    with watched(job, worker, report) as watchdog:

        def watch(batches: Iterable[Batch]) -> Iterable[Batch]:
            batches = watchdog.counted_alone(batches)
            return reported_images(batches, split.name, num_images, worker, report)

        counts = evaluate(model, config, worker, watch, writer.add)
        if worker.is_first:
            writer.join(split, mapping.classes, job.metadata)
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
    metadata = predictions.metadata
    uri, experiment = cluster.tracking.uri, cluster.tracking.experiment
    is_labelled = bool((predictions.labels >= 0).all())
    measured = [measured_from_predictions(predictions)] if is_labelled else []
    identity = _identity(metadata)
    if parent_run_id and mlflow_runs.is_there(uri, parent_run_id):
        identity["mlflow.parentRunId"] = parent_run_id
    run_id = mlflow_runs.start_run(
        uri,
        experiment,
        run_name=f"{metadata.run} {metadata.split} {metadata.protocol}",
        params={
            "recipe.network.name": metadata.network,
            **{f"evaluation.{key}": value for key, value in metadata.model_dump().items()},
            "evaluation.num_classes": len(predictions.classes),
            **{f"cluster.{key}": value for key, value in flatten(cluster).items()},
        },
        tags={
            **environment_tags(cluster.workers.device),
            "dataset.name": metadata.training_data,
            "dataset.extra": metadata.extra_data,
            "ensemble.size": str(metadata.ensemble_size),
            **(
                images_tag(_tracked_split(metadata), metadata.protocol, len(predictions))
                if is_labelled
                else {}
            ),
            **({"precision": metadata.precision} if metadata.precision else {}),
            "weights.digest": metadata.weights_digest,
            **({"command": command} if command else {}),
            **(tags or {}),
        },
        identity=identity,
        note=run_note(
            f"{markdown_code(metadata.network)} of {markdown_code(metadata.run)}, evaluated.",
            measured,
            command,
        ),
    )
    if is_labelled:
        mlflow_runs.log_metrics(uri, run_id, _metrics(predictions))
        classes = len(predictions.classes)
        mlflow_page.show_errors(
            uri, experiment, _tracked_split(metadata), metadata.protocol, classes
        )
    mlflow_runs.log_files(uri, run_id, [file], PREDICTIONS)
    mlflow_runs.finish_run(uri, run_id, "FINISHED")
    return run_id


def is_tracked(metadata: PredictionMetadata, cluster: Cluster) -> bool:
    """Whether MLflow has this evaluation, with all that `track` records."""
    uri = cluster.tracking.uri
    run_id = mlflow_runs.run_with_tags(uri, cluster.tracking.experiment, _identity(metadata))
    return run_id is not None and tracked_run(uri, run_id).status == "FINISHED"


def _identity(metadata: PredictionMetadata) -> dict[str, str]:
    """Return the tags by which an evaluation is found again."""
    return {
        "kind": "evaluation",
        "evaluation.run": metadata.run,
        "split": metadata.split,
        "protocol": metadata.protocol,
        "evaluation.data": metadata.data,
        "dataset.digest": metadata.data_digest,
    }


def _metrics(predictions: Predictions) -> dict[str, float]:
    metadata = predictions.metadata
    prefix = f"eval/{_tracked_split(metadata)}/{metadata.protocol}"
    metrics = predictions.counts.metrics(len(predictions.classes))
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


def _tracked_split(metadata: PredictionMetadata) -> str:
    """Return the split in the names of metrics: one of data not trained on is of its own."""
    return metadata.qualified_split if metadata.is_foreign else metadata.split


def _refuse_other_data(folder: RunFolder, record: RunRecord, store: Store) -> None:
    if record.dataset_digest != store.digest:
        raise UserError(
            f"run '{folder.name}' belongs to another data set than {store.folder} holds "
            "now; bring that one back, or name the one to evaluate on with --data"
        )
