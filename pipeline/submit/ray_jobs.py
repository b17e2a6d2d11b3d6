"""Trainings as Ray Jobs, on a Ray cluster that is up."""

import asyncio
import logging
import os
import shlex
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.config.cluster import Cluster
from pipeline.config.engine import RayServer
from pipeline.config.yaml import find_config_file
from pipeline.runtime.credentials import credentials_of
from pipeline.runtime.errors import UserError
from pipeline.submit.job_engine import State, SubmittedJob, SubmittedTraining
from pipeline.submit.manifests import to_documents
from pipeline.submit.working_tree import PROJECT, pack, within_tree

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

Item = TypeVar("Item")

STATES: dict[str, State] = {
    "PENDING": "waiting",
    "RUNNING": "running",
    "SUCCEEDED": "finished",
    "STOPPED": "stopped",
    "FAILED": "failed",
}


class RayJobs:
    """The job server of a Ray cluster."""

    def __init__(self, engine: RayServer, cluster: Cluster) -> None:
        self._engine, self._cluster = engine, cluster

    def render(self, trainings: list[SubmittedTraining], command: str) -> str:
        requests = [self._request(training) for training in trainings]
        return f"# {command}\n" + to_documents(requests)

    def submit(self, trainings: list[SubmittedTraining], command: str) -> list[SubmittedJob]:
        requests = [self._request(training) for training in trainings]
        client = self._client()
        submitted: list[SubmittedJob] = []
        with tempfile.TemporaryDirectory() as scratch, self._user_errors():
            package = Path(scratch) / "tree.zip"
            pack(PROJECT, self._cluster, package, self._engine.upload_megabytes * 1e6)
            try:
                for training, request in zip(trainings, requests, strict=True):
                    # Ray replaces it with the package's address.
                    request["runtime_env"]["working_dir"] = str(package)
                    job = client.submit_job(**request)
                    submitted.append(SubmittedJob(job, training.run, "waiting"))
            except BaseException:
                for job in submitted:
                    client.stop_job(job.id)
                raise
        return submitted

    def jobs(self) -> list[SubmittedJob]:
        with self._user_errors():
            found = self._client().list_jobs()
        ours = [job for job in found if job.submission_id and "run" in (job.metadata or {})]
        ours.sort(key=lambda job: job.start_time or 0, reverse=True)
        return [
            SubmittedJob(job.submission_id, job.metadata["run"], STATES[job.status], _reason(job))
            for job in ours
        ]

    def logs(self, job: SubmittedJob, follow: bool) -> Iterator[str]:
        client = self._client()
        with self._user_errors():
            if follow:
                yield from _synchronous(lambda: client.tail_job_logs(job.id))
            else:
                yield client.get_job_logs(job.id)

    def stop(self, job: SubmittedJob) -> str:
        with self._user_errors():
            self._client().stop_job(job.id)
        return f"it saves and ends within {self._engine.stop_seconds} s"

    def _request(self, training: SubmittedTraining) -> dict[str, Any]:
        for group in training.job.document.trainings if training.job else ():
            within_tree(find_config_file(group.recipe, "recipes"), group.recipe)
        arguments = training.arguments(
            within_tree(training.document_file, training.document),
            within_tree(training.cluster_file, training.cluster_name),
        )
        # Ray kills a stopped job after 3 seconds, which may be less than a checkpoint takes.
        environment = {"RAY_JOB_STOP_WAIT_TIME_S": str(self._engine.stop_seconds)}
        runtime_env: dict[str, Any] = {"env_vars": environment | _tracking_server()}
        if self._engine.environment == "pinned":
            pins = (PROJECT / "pipeline" / "constraints.txt").read_text(encoding="utf-8").split()
            runtime_env["uv"] = {"packages": pins}
        return {
            "entrypoint": shlex.join(["python", "-m", "pipeline", *arguments]),
            "runtime_env": runtime_env,
            "metadata": {"run": training.run},
        }

    def _client(self) -> "JobSubmissionClient":
        # Otherwise Ray does not send this user's token.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        with self._user_errors():
            from ray.job_submission import JobSubmissionClient

            for module in ("dashboard_sdk", "job.sdk"):  # they log what they upload
                logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.ERROR)
            return JobSubmissionClient(self._engine.address)

    @contextmanager
    def _user_errors(self) -> Iterator[None]:
        """Turn what Ray raises into a `UserError` of one line that names the address."""
        address = self._engine.address
        try:
            yield
        except ConnectionError:
            raise UserError(
                f"no Ray cluster answers at {address}; start one with `ray start --head`, or set "
                f"engine.address to its dashboard"
            ) from None
        except Exception as error:
            if type(error).__name__ == "AuthenticationError":  # without importing Ray for it
                raise UserError(
                    f"Ray at {address} refuses the token; set RAY_AUTH_TOKEN, or "
                    f"RAY_AUTH_TOKEN_PATH to a file that holds the cluster's token"
                ) from None
            if isinstance(error, RuntimeError):
                text = " ".join(str(error).split())
                raise UserError(f"Ray at {address} says: {text[:300]}") from None
            raise


def _tracking_server() -> dict[str, str]:
    """Return the tracking server of this user's environment, which the job's does not have."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None:
        return {}
    if credentials_of(uri):
        raise UserError(
            "MLFLOW_TRACKING_URI holds a password, which Ray would show to everyone; leave it out, "
            "and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on the cluster's nodes"
        )
    return {"MLFLOW_TRACKING_URI": uri}


def _reason(job: Any) -> str:
    return "" if job.status in ("RUNNING", "SUCCEEDED") else (job.message or "").partition("\n")[0]


def _synchronous(make: Callable[[], AsyncIterator[Item]]) -> Iterator[Item]:
    """Yield the items of an asynchronous iterator."""
    loop = asyncio.new_event_loop()
    try:
        items = aiter(make())
        while True:
            try:
                yield loop.run_until_complete(anext(items))
            except StopAsyncIteration:
                return
    finally:
        loop.close()
