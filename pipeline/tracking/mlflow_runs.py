"""The driver's side of a tracked run: its start, what is stored with it, and its end."""

import json
import logging
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.runtime.background import in_background
from pipeline.runtime.credentials import without_credentials
from pipeline.runtime.errors import UserError
from pipeline.tracking.mlflow_client import (
    REMEDY,
    connect,
    load_mlflow,
    reason,
    sqlite_file,
    user_errors,
)
from pipeline.tracking.queries import all_runs, like_filter
from pipeline.tracking.run_note import NOTE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

LastStatus = Literal["FINISHED", "FAILED", "KILLED"]

# Makes MLflow's page show training runs first, in place of chats.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}

_LOG = logging.getLogger(__name__)
_PARAMS_PER_CALL, _PARAM_LENGTH, _TAG_LENGTH, _DIGEST_LENGTH = (
    100,
    6000,
    8000,
    36,
)  # MLflow's limits


def check_reachable(uri: str) -> None:
    """Raise `UserError` within seconds if runs can't be recorded at `uri`. Changes nothing."""
    path = sqlite_file(uri)
    if path is None:
        with user_errors(uri), _short_timeout():
            connect(uri).search_experiments(max_results=1)
        return
    try:
        if path.exists():
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True)) as database:
                database.execute("BEGIN IMMEDIATE")  # takes the lock for writing
        else:
            tempfile.TemporaryFile(dir=path.parent).close()
    except (OSError, sqlite3.Error) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"tracking store {path} can't be written: {what}; {REMEDY}") from None


def check_recordable(uri: str, experiment: str) -> None:
    """Raise `UserError` within seconds if runs of `experiment` can't be written at `uri`.

    On a server the experiment is made, with the time of this check as its tag.
    """
    check_reachable(uri)
    if sqlite_file(uri) is None:
        with user_errors(uri), _short_timeout():
            client = connect(uri)
            parent = experiment_id(client, uri, experiment)
            client.set_experiment_tag(parent, "ilsvrc.checked", f"{datetime.now():%F %T}")


def start_run(
    uri: str,
    experiment: str,
    *,
    run_name: str,
    params: Mapping[str, object],
    tags: Mapping[str, str],
    identity: Mapping[str, str] | None = None,
    existing_run_id: str | None = None,
    command: str | None = None,
    note: str | None = None,
) -> str:
    """Make a run of `experiment` with `params` and `tags`, or continue one; return its id.

    `identity` are the tags that tell it from all others. A new run has them from its first moment:
    one whose maker was killed, in here or before the id was kept, is found by them and completed.
    The experiment is made if need be. A run that is continued keeps its params and the
    `command` that it has as a tag and its description, of which `note` is the first, and gets the
    new `tags`; one that no longer exists, since it or its store was deleted, is made again.
    """
    identity = identity or {}
    with user_errors(uri):
        client = connect(uri)
        run = _find_run(client, existing_run_id)
        if run is None and identity:
            run = _find_run(client, run_with_tags(uri, experiment, identity))
        if run:
            client.update_run(run.info.run_id, status="RUNNING")
        else:
            parent = experiment_id(client, uri, experiment)
            run = client.create_run(parent, run_name=run_name, tags=_cut(identity))
        run_id: str = run.info.run_id
        new = {key: value for key, value in params.items() if key not in run.data.params}
        # A server's address may hold a password, and everyone who sees the run sees its params.
        texts = {key: without_credentials(str(value)) for key, value in new.items()}
        if command and "command" not in run.data.tags:
            tags = {**tags, "command": command}
        if note and NOTE not in run.data.tags:
            tags = {**tags, NOTE: note}
        tags = {**tags, **identity}  # of a run that is older than its identity
        _log_texts(client, run_id, texts, tags)
    return run_id


def is_there(uri: str, run_id: str) -> bool:
    """Whether the store at `uri` has the run, not deleted; False for an empty id."""
    with user_errors(uri):
        return _find_run(connect(uri), run_id) is not None


def finish_run(uri: str, run_id: str, status: LastStatus) -> None:
    """Set the run's last status. A store that can't be reached only gives a warning."""
    try:
        connect(uri).set_terminated(run_id, status)
    except Exception as error:
        _LOG.warning(
            "run %s isn't marked %s: %s %s",
            run_id,
            status,
            without_credentials(uri),
            reason(error, uri),
        )


def log_files(uri: str, run_id: str, paths: Iterable[Path], folder: str | None = None) -> None:
    """Store copies of `paths` with the run, in its artifact `folder`."""
    with user_errors(uri):
        client = connect(uri)
        for path in paths:
            client.log_artifact(run_id, str(path), folder)


def log_metrics(uri: str, run_id: str, metrics: Mapping[str, float]) -> None:
    """Record `metrics` with a run, at step 0."""
    from mlflow.entities import Metric

    with user_errors(uri):
        now = int(time.time() * 1000)
        values = [Metric(name, value, now, 0) for name, value in metrics.items()]
        connect(uri).log_batch(run_id, metrics=values)


def run_with_tags(uri: str, experiment: str, tags: Mapping[str, str]) -> str | None:
    """Return the newest run of `experiment` that has all of `tags`, or None."""
    with user_errors(uri):
        client = connect(uri)
        found = client.get_experiment_by_name(experiment)
        if found is None or found.lifecycle_stage == "deleted":
            return None
        wanted = " and ".join(f"tags.`{name}` {like_filter(value)}" for name, value in tags.items())
        runs = all_runs(client, found.experiment_id, wanted)
    alike = (run for run in runs if tags.items() <= run.data.tags.items())
    return next((str(run.info.run_id) for run in alike), None)


def tag_run(uri: str, run_id: str, tags: Mapping[str, str]) -> None:
    """Give a run `tags` in addition to, or in place of, its own."""
    with user_errors(uri):
        _log_texts(connect(uri), run_id, {}, tags)


def log_dataset(uri: str, run_id: str, name: str, digest: str, location: str) -> None:
    """Record the name of the data set that the run trains on, without reading the data."""
    with user_errors(uri):
        client = connect(uri)
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        source = json.dumps({"uri": location})
        dataset = Dataset(name, digest[:_DIGEST_LENGTH], source_type="local", source=source)
        context = InputTag(MLFLOW_DATASET_CONTEXT, "training")
        client.log_inputs(run_id, [DatasetInput(dataset, [context])])


@contextmanager
def system_metrics(
    uri: str, run_id: Callable[[], str], seconds_between: float = 10.0
) -> Iterator[None]:
    """Record the load of this machine's processor, memory, disk, network and GPUs while inside.

    As MLflow itself, only where MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING is true: its page of a run
    lists them before the errors. Samples of an outage are kept and sent after it; nothing is
    sampled before `run_id` returns one. Never raises.
    """
    load_mlflow()  # here rather than in the thread
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING

    if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
        yield
        return
    from mlflow.system_metrics import system_metrics_monitor

    def record(is_over: threading.Event) -> None:
        monitor = None
        while not is_over.wait(seconds_between):
            current_id = run_id()
            if not current_id:
                continue
            try:
                monitor = monitor or system_metrics_monitor.SystemMetricsMonitor(
                    current_id, resume_logging=True, tracking_uri=uri
                )
                monitor.collect_metrics()
                monitor.publish_metrics(monitor.aggregate_metrics())
            except Exception as error:
                _LOG.debug("no system metrics: %s", reason(error, uri))

    with in_background("system-metrics", record, patience=5):
        yield


def _find_run(client: "MlflowClient", run_id: str | None) -> "Run | None":
    from mlflow.exceptions import MlflowException

    if not run_id:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def experiment_id(client: "MlflowClient", uri: str, name: str) -> str:
    """Return the id of experiment `name`, which is made if need be; `UserError` if it is deleted.

    The files of a sqlite store's runs lie beside it, in `mlartifacts`.
    """
    from mlflow.exceptions import MlflowException

    path = sqlite_file(uri)
    artifacts = (path.parent / "mlartifacts").as_uri() if path else None
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifacts, tags=_EXPERIMENT_TAGS))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another process was faster
            assert found is not None
    if found.lifecycle_stage == "deleted":
        raise UserError(
            f"experiment '{name}' is deleted; set tracking.experiment of the cluster to another "
            f"name, or bring it back with `mlflow experiments restore -x {found.experiment_id}`"
        )
    return str(found.experiment_id)


def _log_texts(
    client: "MlflowClient", run_id: str, params: Mapping[str, str], tags: Mapping[str, str]
) -> None:
    from mlflow.entities import Param, RunTag

    run_params = [Param(key, value[:_PARAM_LENGTH]) for key, value in params.items()]
    for start in range(0, len(run_params), _PARAMS_PER_CALL):
        client.log_batch(run_id, params=run_params[start : start + _PARAMS_PER_CALL])
    client.log_batch(run_id, tags=[RunTag(key, tag) for key, tag in _cut(tags).items()])


def _cut(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: tag[:_TAG_LENGTH] for key, tag in tags.items()}


@contextmanager
def _short_timeout() -> Iterator[None]:
    """Have MLflow try a server once, for 15 seconds."""
    settings = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}
    before = {name: os.environ[name] for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.update(before)
