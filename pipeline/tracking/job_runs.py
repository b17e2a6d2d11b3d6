"""The MLflow run of a job, under which the runs of its trainings and ensembles are shown."""

from pathlib import Path

from pipeline.config.cluster import Cluster
from pipeline.runtime.storage import file_lock
from pipeline.tracking.mlflow_runs import finish_run, start_run
from pipeline.tracking.queries import JOB, JOB_PREFIX, KIND


def start_job_run(cluster: Cluster, job_name: str, note: str = "") -> str:
    """Make the run of a job in the cluster's experiment, or go on with it; return its id.

    Trainings that start at the same time, on any nodes, get the same one. `note` is what MLflow
    shows as its description.
    """
    uri, experiment = cluster.tracking.uri, cluster.tracking.experiment
    with file_lock(job_lock(cluster, job_name)):
        return start_run(
            uri,
            experiment,
            run_name=job_name,
            params={},
            tags={"mlflow.note.content": note} if note else {},
            identity={KIND: JOB, "job": job_name},
        )


def finish_job_run(cluster: Cluster, job_name: str, note: str) -> None:
    """Mark the run of a job as finished, with `note` as its description."""
    run_id = start_job_run(cluster, job_name, note)
    finish_run(cluster.tracking.uri, run_id, "FINISHED")


def job_tags(job_name: str, job_run_id: str) -> dict[str, str]:
    """Return the tags of a run that belongs to a job. It may belong to several."""
    return {"mlflow.parentRunId": job_run_id, f"{JOB_PREFIX}{job_name}": "yes"}


def job_lock(cluster: Cluster, job_name: str) -> Path:
    """Return the file that the processes of a job lock, on storage that all nodes share."""
    return cluster.runs_dir / f".job-{job_name}.lock"
