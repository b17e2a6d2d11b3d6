"""What follows a job's trainings: their evaluations, and its ensembles once all are evaluated."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from pipeline.config.cluster import Cluster
from pipeline.config.job import Job, JobMember
from pipeline.config.protocol import TestProtocol
from pipeline.data.store.store import store_folder
from pipeline.evaluation.ensemble import ensemble
from pipeline.evaluation.predictions import (
    Predictions,
    predictions_file,
    read_predictions,
    write_predictions,
)
from pipeline.runs.evaluated_model import model_of_run
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.background import in_background
from pipeline.runtime.errors import InterruptedByUserError, UserError
from pipeline.runtime.storage import file_lock
from pipeline.tracking.job_runs import job_lock, job_tags, start_job_run
from pipeline.tracking.mlflow_runs import tag_run
from pipeline.trainer.evaluation_run import is_tracked, run_evaluation, track

_SECONDS_BETWEEN_LOOKS = 1.0


def evaluate_member(
    job: Job, member: JobMember, cluster: Cluster, console: Console, command: str | None = None
) -> None:
    """Evaluate a trained member on its test split by each of its protocols that is not recorded.

    Raises `InterruptedByUserError` when the run's folder asks to stop; the same call goes on then.
    """
    folder, recipe, uri = (
        RunFolder(cluster.runs_dir / member.run),
        member.recipe,
        cluster.tracking.uri,
    )
    model, run_id = model_of_run(folder), folder.tracking_run_id()
    if not run_id:
        raise UserError(f"run '{folder.name}' is not recorded yet; submit the job again when it is")
    # Again, since the training may be older than the job.
    tag_run(uri, run_id, job_tags(job.name, start_job_run(cluster, job.name)))
    data = store_folder(cluster, recipe.data.name)
    for protocol in member.protocols:
        file = _predictions_file(member, protocol, cluster)
        is_own = protocol == recipe.evaluation  # measured and recorded by the training
        if file.is_file() and (is_own or is_tracked(read_predictions(file).metadata, cluster)):
            continue
        with _interrupted_on_request(folder):
            run_evaluation(
                model, folder, data, recipe.data.test_split, protocol, cluster, console, command
            )


def evaluate_ensembles(
    job: Job, cluster: Cluster, command: str | None = None
) -> list[Predictions] | None:
    """Make the job's ensembles; return the predictions of all its trainings and of these.

    None where some training is not evaluated yet: the last one to be makes the ensembles.
    """
    job_run_id = start_job_run(cluster, job.name)
    with file_lock(job_lock(cluster, job.name)):
        files = [
            _predictions_file(member, protocol, cluster)
            for member in job.members
            for protocol in member.protocols
        ]
        if not all(file.is_file() for file in files):
            return None
        found = {file: read_predictions(file) for file in files}
        averages = [
            ensemble(
                [found[_predictions_file(m, m.ensemble[name], cluster)] for m in job.members],
                protocol=name,
            )
            for name in job.document.ensemble
        ]
        for average in averages:
            record_ensemble(average, cluster, command, job_tags(job.name, job_run_id))
    return [*found.values(), *averages]


def record_ensemble(
    average: Predictions,
    cluster: Cluster,
    command: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Path:
    """Keep the predictions of an ensemble in its own folder and in MLflow; return their file."""
    about = average.metadata
    file = predictions_file(cluster.runs_dir / about.run, about.qualified_split, about.protocol)
    write_predictions(average, file)
    track(average, file, cluster, command=command, tags=tags)
    return file


def _predictions_file(member: JobMember, protocol: TestProtocol, cluster: Cluster) -> Path:
    name = protocol.name(member.recipe.input.size)
    return predictions_file(cluster.runs_dir / member.run, member.recipe.data.test_split, name)


@contextmanager
def _interrupted_on_request(folder: RunFolder) -> Iterator[None]:
    """Interrupt the work inside where the run's folder asks to stop: evaluations save nothing."""

    def watch(is_over: threading.Event) -> None:
        while not is_over.wait(_SECONDS_BETWEEN_LOOKS):
            if folder.stop_request.exists():
                os.kill(os.getpid(), signal.SIGINT)
                return

    try:
        with in_background("stop", watch):
            yield
    except (KeyboardInterrupt, SystemExit):  # while Ray starts it turns signals into the second
        raise InterruptedByUserError(
            "interrupted; the same command goes on with this evaluation"
        ) from None
