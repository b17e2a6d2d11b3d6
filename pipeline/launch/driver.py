"""A training or an evaluation as the command sees it: checks, the tracked run, the workers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rich.console import Console

from pipeline.cluster import Cluster
from pipeline.data.store import Store, store_folder
from pipeline.documents import digest, flatten
from pipeline.errors import InterruptedByUserError, UserError
from pipeline.evaluation.metrics import Counts
from pipeline.launch.display import Display
from pipeline.launch.events import Note
from pipeline.launch.on_ray import run_on_workers
from pipeline.launch.preflight import EVALUATION, refuse_early
from pipeline.launch.replay import replay
from pipeline.launch.run_folder import RunFolder, RunRecord, name_run
from pipeline.launch.starting import Start, find_start
from pipeline.launch.worker import Job, evaluate_run, train
from pipeline.protocol import protocol_name
from pipeline.recipe import Recipe
from pipeline.storage import write_whole
from pipeline.tracking import models, runs
from pipeline.tracking.environment import environment_tags
from pipeline.training.sight import Replayed


@dataclass(frozen=True)
class Outcome:
    """A finished training: its run, and the last evaluation."""

    folder: RunFolder
    record: RunRecord
    counts: Counts


def run_training(
    recipe: Recipe,
    recipe_name: str,
    cluster: Cluster,
    run_name: str | None,
    console: Console,
    start_from: str | None = None,
) -> Outcome | None:
    """Train, or go on training; return None if the run was concluded already.

    `start_from` names a trained run, or a file of weights, to start from. Raises `UserError` before
    any worker starts for all that can be known by then, and `InterruptedByUserError` after Ctrl-C.
    """
    start = find_start(cluster.runs_dir, start_from, recipe) if start_from else None
    start_digest = start.digest if start else ""
    folder = name_run(cluster.runs_dir, run_name, recipe, recipe_name, start_digest)
    uri, before = cluster.tracking.uri, folder.record()
    if before and before.is_recorded and runs.is_there(uri, before.tracking_run_id):
        return None
    refuse_early(recipe, cluster, on_disk=folder.checkpoint_bytes)
    folder.path.mkdir(parents=True, exist_ok=True)
    with folder.held():
        store = Store.open(store_folder(cluster, recipe.data.name))
        record = _start_run(folder, before, recipe, cluster, store, start)
        start_file = start.file if start else None
        job = Job(recipe, cluster, folder, uri, record.tracking_run_id, start_file)
        folder.stop_request.unlink(missing_ok=True)  # of an earlier training
        with _concluded(uri, record.tracking_run_id):
            with runs.system_metrics(uri, record.tracking_run_id), Display(console) as display:
                display.show(Note(f"run {folder.name} in {folder.path}"))
                counts = run_on_workers(train, job, display.show, stops_on_request=True)
            runs.log_files(uri, record.tracking_run_id, [folder.recipe_file, folder.weights])
            models.log_model(uri, record.tracking_run_id, recipe, folder.weights)
    return Outcome(folder, record, counts)


def conclude(outcome: Outcome, uri: str, comparison: str) -> None:
    """Keep the comparison with the run; from now on there is nothing left to do for it."""
    folder = outcome.folder
    write_whole(folder.comparison, comparison.encode())
    runs.log_files(uri, outcome.record.tracking_run_id, [folder.comparison])
    folder.write_record(replace(outcome.record, is_recorded=True))


def run_evaluation(
    folder: RunFolder, cluster: Cluster, split: str | None, console: Console
) -> Counts:
    """Evaluate a trained run by its recipe's protocol; show the counts and record them with it.

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
    refuse_early(recipe, cluster, EVALUATION)
    _refuse_other_data(folder, record, Store.open(store_folder(cluster, recipe.data.name)))
    job = Job(recipe, cluster, folder, cluster.tracking.uri, record.tracking_run_id)
    with Display(console) as display:
        return run_on_workers(evaluate_run, job, display.show)


def run_replay(folder: RunFolder, step: int, cluster: Cluster, console: Console) -> Replayed:
    """Run step `step` of a run again, in this process; nothing is recorded."""
    recipe, record = folder.recipe(), folder.record()
    if record is None:
        raise UserError(f"run '{folder.name}' never started; there is nothing to run again")
    store = Store.open(store_folder(cluster, recipe.data.name))
    _refuse_other_data(folder, record, store)
    alone = cluster.workers.model_copy(update={"count": 0})
    cluster = cluster.model_copy(update={"workers": alone})
    job = Job(recipe, cluster, folder, cluster.tracking.uri, record.tracking_run_id)
    with Display(console) as display:
        return run_on_workers(
            lambda job, worker, report: replay(job, step, worker, report), job, display.show
        )


def _start_run(
    folder: RunFolder,
    before: RunRecord | None,
    recipe: Recipe,
    cluster: Cluster,
    store: Store,
    start: Start | None,
) -> RunRecord:
    """Start the MLflow run, or go on with the one this folder already has."""
    if before:
        _refuse_other_data(folder, before, store)
    uri = cluster.tracking.uri
    started = {"start.from": start.origin, "start.digest": start.digest} if start else {}
    extra_data = start.extra_data(store.digest) if start else "none"
    run_id = runs.start_run(
        uri,
        cluster.tracking.experiment,
        run_name=folder.name,
        params={f"recipe.{key}": value for key, value in flatten(recipe).items()}
        | {f"cluster.{key}": value for key, value in flatten(cluster).items()},
        tags={
            **environment_tags(cluster.workers.device),
            **started,
            "recipe.digest": digest(recipe.without_expectation()),
            "dataset.name": store.name,
            "dataset.digest": store.digest,
            "dataset.extra": extra_data,
            "protocol": protocol_name(recipe.evaluation, recipe.input.size),
        },
        existing_run_id=before.tracking_run_id if before else None,
    )
    runs.log_dataset(uri, run_id, store.name, store.digest, str(store.folder))
    record = RunRecord(store.digest, run_id, start.digest if start else "", extra_data)
    folder.write_recipe(recipe)
    folder.write_record(record)
    return record


@contextmanager
def _concluded(uri: str, run_id: str) -> Iterator[None]:
    """Give the MLflow run the status that the block's end deserves."""
    status: runs.LastStatus = "FAILED"
    try:
        yield
        status = "FINISHED"
    except InterruptedByUserError:
        status = "KILLED"
        raise
    except (KeyboardInterrupt, SystemExit):  # while Ray starts it turns signals into the second
        status = "KILLED"
        raise InterruptedByUserError(
            "interrupted; the same command goes on from the last checkpoint"
        ) from None
    finally:
        runs.finish_run(uri, run_id, status)


def _refuse_other_data(folder: RunFolder, record: RunRecord, store: Store) -> None:
    if record.dataset_digest != store.digest:
        raise UserError(
            f"run '{folder.name}' belongs to another data set than {store.folder} holds now; "
            f"bring that one back, or give this training another name with --run"
        )
