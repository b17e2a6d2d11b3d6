"""The command's part of a training: checks, the tracked run, the workers."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console

from pipeline.checks.preflight import refuse_early
from pipeline.config.cluster import Cluster
from pipeline.config.recipe import Recipe
from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.store import Store, store_folder
from pipeline.evaluation.metrics import Counts
from pipeline.evaluation.predictions import PREDICTIONS, kept_predictions
from pipeline.launch.events import Event, Message, Phase, Report, WorkerHung
from pipeline.launch.progress_display import ProgressDisplay
from pipeline.launch.ray_train import remove_stale_scratch, run_on_workers
from pipeline.launch.training_job import TrainingJob
from pipeline.results.measured import Measured
from pipeline.runs.initial_weights import find_initial_weights
from pipeline.runs.run_folder import RunFolder, RunRecord, name_run
from pipeline.runtime.background import in_background, said_if_long
from pipeline.runtime.credentials import without_credentials
from pipeline.runtime.errors import InterruptedByUserError, UserError
from pipeline.runtime.storage import write_atomically
from pipeline.tracking import mlflow_model, mlflow_runs
from pipeline.tracking.queries import tracked_run
from pipeline.tracking.run_note import NOTE, run_note
from pipeline.tracking.tracker import deliver_metrics
from pipeline.trainer.replay import replay
from pipeline.trainer.run_registration import (
    RunRegistration,
    registered_run,
    training_words,
)
from pipeline.trainer.worker import train
from pipeline.training.step_inspection import InspectedStep

_SECONDS_TO_CONCLUDE = 10.0


@dataclass(frozen=True)
class TrainingResult:
    """A finished training: its run, the last evaluation, and whether MLflow has all its files."""

    folder: RunFolder
    counts: Counts
    is_delivered: bool = True


def run_training(
    recipe: Recipe,
    recipe_name: str,
    cluster: Cluster,
    run_name: str | None,
    console: Console,
    start_from: str | None = None,
    command: str | None = None,
    job_name: str | None = None,
    on_event: Report | None = None,
    *,
    new_head: bool = False,
) -> TrainingResult | None:
    """Train, or go on training; return None if the run was concluded already.

    `start_from` names a trained run, or a file of weights, to start from, but for the head where
    that is to be new; a new run is recorded with `command`, and as one of the job `job_name`.
    `on_event` is called with what the workers report, which is shown in any case. Raises
    `UserError` before any worker starts for what can be checked by then, and
    `InterruptedByUserError` after Ctrl-C.
    """
    start = None
    if start_from:
        start = find_initial_weights(cluster.runs_dir, start_from, recipe, new_head=new_head)
    elif new_head or recipe.freeze_until:
        what = "--new-head" if new_head else f"freeze_until: {recipe.freeze_until}"
        raise UserError(f"{what}: all weights are random; say with --start-from where to start")
    start_digest = start.digest if start else ""
    folder = name_run(
        cluster.runs_dir, run_name, recipe, recipe_name, start_digest, new_head=new_head
    )
    uri, record = cluster.tracking.uri, folder.record()
    if record and record.is_recorded and _is_tracked(record, cluster):
        return None
    with ProgressDisplay(console, recipe.network.num_classes) as display:

        def report(event: Event) -> None:
            display.show(event)
            if on_event:
                on_event(event)
            if isinstance(event, WorkerHung):  # this process, which ends without unwinding
                _conclude_hung(uri, folder)

        def say(text: str) -> None:
            display.show(Message(text))

        display.show(Phase("checks"))
        refuse_early(recipe, cluster, on_disk=folder.checkpoint_bytes)
        folder.path.mkdir(parents=True, exist_ok=True)
        with folder.held():
            store = Store.open(store_folder(cluster, recipe.data.name))
            if record:
                _refuse_other_data(folder, record, store)
            job = TrainingJob(recipe, cluster, folder, uri, start)
            for earlier in (folder.stop_request, folder.errors):
                earlier.unlink(missing_ok=True)
            remove_stale_scratch(folder)
            registration = RunRegistration(folder, recipe, cluster, store, start, command, job_name)
            with _concluded(uri, folder.tracking_run_id):
                say(f"run {folder.name} in {folder.path}")
                for remark in start.remarks if start else ():
                    say(f"starts from {start_from}: {remark}")
                display.show(Phase("tracking"))
                with (
                    registered_run(registration, say),
                    mlflow_runs.system_metrics(uri, folder.tracking_run_id),
                ):
                    counts = run_on_workers(train, job, report, stops_on_request=True)
                is_delivered = _deliver(folder, recipe, store.classes, uri, say)
    return TrainingResult(folder, counts, is_delivered)


def _deliver(
    folder: RunFolder,
    recipe: Recipe,
    classes: Sequence[ImageClass],
    uri: str,
    warn: Callable[[str], None],
) -> bool:
    """Bring a trained run's metrics and files to its MLflow run, if it has one.

    Returns whether all are there. They are in the run's folder anyway: what can't be brought now,
    the same command brings later.
    """
    if run_id := folder.trained_record().tracking_run_id:
        where = f"tracking store {without_credentials(uri)}"
        try:
            with said_if_long(warn, f"waiting for {where} to take the run's metrics and files"):
                deliver_metrics(uri, run_id, folder.path)
                mlflow_runs.log_files(uri, run_id, folder.results())
                mlflow_runs.log_files(uri, run_id, kept_predictions(folder.path), PREDICTIONS)
                mlflow_model.log_model(uri, run_id, recipe, folder.weights, classes)
        except UserError as error:
            warn(
                f"{error}. The training is complete, in {folder.path}; the same command brings "
                f"what is missing there"
            )
            return False
    return True


def conclude(
    result: TrainingResult, uri: str, measured: Sequence[Measured], comparison: str
) -> None:
    """Store the results and the comparison with the run, and mark the run as complete.

    A description that somebody has written is left alone.
    """
    folder, record = result.folder, result.folder.record()
    assert record is not None
    write_atomically(folder.comparison, comparison.encode())
    run_id = record.tracking_run_id
    mlflow_runs.log_files(uri, run_id, [folder.comparison])
    tags = tracked_run(uri, run_id).tags
    what = training_words(folder.recipe(), record.dataset_name)
    if tags.get(NOTE, what).startswith(what):
        note = run_note(what, measured, tags.get("command"))
        mlflow_runs.tag_run(uri, run_id, {NOTE: note})
    folder.update_record(is_recorded=True)


def run_replay(folder: RunFolder, step: int, cluster: Cluster, console: Console) -> InspectedStep:
    """Run step `step` of a run again, in this process; nothing is recorded."""
    recipe, record = folder.recipe(), folder.record()
    if record is None:
        raise UserError(f"run '{folder.name}' never started; there is nothing to run again")
    store = Store.open(store_folder(cluster, recipe.data.name))
    _refuse_other_data(folder, record, store)
    job = TrainingJob(recipe, cluster.in_this_process(), folder, cluster.tracking.uri)
    with ProgressDisplay(console) as display:
        return run_on_workers(
            lambda job, worker, report: replay(job, step, worker, report), job, display.show
        )


def _is_tracked(record: RunRecord, cluster: Cluster) -> bool:
    try:
        return mlflow_runs.is_there(cluster.tracking.uri, record.tracking_run_id)
    except UserError:
        if cluster.tracking.required:
            raise
        return True


@contextmanager
def _concluded(uri: str, run_id: Callable[[], str]) -> Iterator[None]:
    """Set the status of the MLflow run, if there is one by then, by how the block ends."""
    status: mlflow_runs.LastStatus = "FAILED"
    try:
        yield
        status = "FINISHED"
    except InterruptedByUserError:
        status = "KILLED"
        raise
    except (KeyboardInterrupt, SystemExit):  # Ray turns signals into the second while it starts
        status = "KILLED"
        raise InterruptedByUserError(
            "interrupted; the same command goes on from the last checkpoint"
        ) from None
    finally:
        if run := run_id():
            mlflow_runs.finish_run(uri, run, status)


def _conclude_hung(uri: str, folder: RunFolder) -> None:
    """Mark the MLflow run as failed, within seconds, since the store may be what hangs."""

    def finish(is_over: threading.Event) -> None:
        if run := folder.tracking_run_id():
            mlflow_runs.finish_run(uri, run, "FAILED")

    with in_background("conclude", finish, patience=_SECONDS_TO_CONCLUDE):
        pass


def _refuse_other_data(folder: RunFolder, record: RunRecord, store: Store) -> None:
    if record.dataset_digest != store.digest:
        raise UserError(
            f"run '{folder.name}' belongs to another data set than {store.folder} holds now; "
            f"bring that one back, or give this training another name with --run"
        )
