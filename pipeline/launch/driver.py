"""A training or an evaluation as the command sees it: checks, the tracked run, the workers."""

from dataclasses import dataclass, replace

from rich.console import Console

from pipeline.cluster import Cluster
from pipeline.data.store import Store
from pipeline.documents import digest, flatten
from pipeline.errors import InterruptedByUserError, UserError
from pipeline.evaluation.metrics import Counts
from pipeline.evaluation.protocols import protocol_name
from pipeline.launch.display import Display
from pipeline.launch.events import Note
from pipeline.launch.on_ray import run_on_workers
from pipeline.launch.preflight import refuse_early
from pipeline.launch.run_folder import RunFolder, RunRecord, open_run
from pipeline.launch.worker import Job, evaluate_run, train
from pipeline.recipe import Recipe
from pipeline.tracking import models, runs
from pipeline.tracking.environment import environment_tags


@dataclass(frozen=True)
class Outcome:
    """A finished training: its run, and the last evaluation."""

    folder: RunFolder
    record: RunRecord
    counts: Counts


def run_training(
    recipe: Recipe, recipe_name: str, cluster: Cluster, run_name: str | None, console: Console
) -> Outcome | None:
    """Train, or go on training; return None if the run was complete already.

    Raises `UserError` before any worker starts for all that can be known by then.
    """
    refuse_early(recipe, cluster)
    store = Store.open(cluster.data_dir / recipe.data.name)
    folder = open_run(cluster.runs_dir, run_name, recipe, recipe_name)
    before = folder.record()
    if before and before.is_recorded:
        return None
    record = _tracked(folder, before, recipe, cluster, store)
    job = Job(recipe, cluster, folder, record.tracking_uri, record.tracking_run_id)
    status: runs.LastStatus = "FAILED"
    try:
        with (
            runs.system_metrics(record.tracking_uri, record.tracking_run_id),
            Display(console) as display,
        ):
            display.show(Note(f"run {folder.name} in {folder.path}"))
            counts = run_on_workers(train, job, display.show)
        _record_results(job, record)
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):  # Ray turns the first into the second
        status = "KILLED"
        raise InterruptedByUserError(
            "interrupted; the same command goes on from the last checkpoint"
        ) from None
    finally:
        runs.finish_run(record.tracking_uri, record.tracking_run_id, status)
    return Outcome(folder, record, counts)


def run_evaluation(
    folder: RunFolder, cluster: Cluster, split: str | None, console: Console
) -> Counts:
    """Evaluate a complete run by its recipe's protocol; show the counts and record them with it.

    `split` defaults to the recipe's test split. Counts that are recorded already stay.
    """
    recipe, record = folder.recipe(), folder.record()
    if record is None or not folder.is_trained:
        raise UserError(
            f"run '{folder.name}' has no final weights yet; `ilsvrc train` goes on training it"
        )
    if split:
        data = recipe.data.model_copy(update={"test_split": split})
        recipe = recipe.model_copy(update={"data": data})
    refuse_early(recipe, cluster)
    store = Store.open(cluster.data_dir / recipe.data.name)
    _refuse_other_data(folder, record, store)
    job = Job(recipe, cluster, folder, record.tracking_uri, record.tracking_run_id)
    with Display(console) as display:
        return run_on_workers(evaluate_run, job, display.show)


def _tracked(
    folder: RunFolder, before: RunRecord | None, recipe: Recipe, cluster: Cluster, store: Store
) -> RunRecord:
    """Start the MLflow run, or go on with the one this folder already has."""
    if before:
        _refuse_other_data(folder, before, store)
    uri = before.tracking_uri if before else cluster.tracking.uri
    run_id = runs.start_run(
        uri,
        cluster.tracking.experiment,
        run_name=folder.name,
        params={f"recipe.{key}": value for key, value in flatten(recipe).items()}
        | {f"cluster.{key}": value for key, value in flatten(cluster).items()},
        tags={
            **environment_tags(cluster.workers.device),
            "recipe.digest": digest(recipe),
            "dataset.name": store.name,
            "dataset.digest": store.digest,
            "protocol": protocol_name(recipe.evaluation, recipe.input.size),
        },
        existing_run_id=before.tracking_run_id if before else None,
    )
    runs.log_dataset(uri, run_id, store.name, store.digest, store.folder)
    record = RunRecord(store.name, store.digest, uri, run_id)
    folder.write_recipe(recipe)
    folder.write_record(record)
    return record


def _refuse_other_data(folder: RunFolder, record: RunRecord, store: Store) -> None:
    if record.dataset_digest != store.digest:
        raise UserError(
            f"run '{folder.name}' belongs to another data set than {store.folder} holds now; "
            f"bring that one back, or give this training another name with --run"
        )


def _record_results(job: Job, record: RunRecord) -> None:
    """Put the recipe, the weights and a model that serves them into the MLflow run."""
    runs.log_files(
        record.tracking_uri,
        record.tracking_run_id,
        [job.folder.recipe_file, job.folder.weights],
    )
    models.log_model(record.tracking_uri, record.tracking_run_id, job.recipe, job.folder.weights)
    job.folder.write_record(replace(record, is_recorded=True))
