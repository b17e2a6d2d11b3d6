"""Queries of the tracking store: runs, metric histories, and progress of trainings."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline.evaluation.metrics import has_top5
from pipeline.runtime.errors import UserError
from pipeline.runtime.names import suggest
from pipeline.tracking.mlflow_client import REMEDY, connect, sqlite_file, user_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run


# A sqlite store holds each page's runs several times over in memory: 100 kB a run.
_RUNS_PER_PAGE = 100


@dataclass(frozen=True)
class TrainingProgress:
    """A training's epochs done, of how many, and the last values of its metrics.

    Errors are in percent and of the last evaluation; `seconds_left` is by the speed of the last
    epoch. None: not known (yet). `has_top5`: the network tells more than five classes apart.
    """

    run_id: str
    status: str
    epochs_done: float
    epochs: int
    top1_error: float | None
    top5_error: float | None
    images_per_second: float | None
    seconds_left: float | None
    has_top5: bool = True

    def without_speed(self) -> "TrainingProgress":
        """Return the same of a training that isn't running."""
        return replace(self, images_per_second=None, seconds_left=None)


# The tag that tells published results, and the runs of jobs, from trainings and evaluations.
KIND, PUBLISHED, JOB = "kind", "published", "job"
# Before a job's name: the tag of runs that belong to it.
JOB_PREFIX = "job/"


@dataclass(frozen=True)
class TrackedRun:
    """A run of the tracking store; `metrics` holds the value of each metric's last step."""

    run_id: str
    name: str
    status: str
    started: datetime
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def parent(self) -> str:
        """The id of the training that this run evaluates; empty for any other run."""
        return "" if self.jobs else self.tags.get("mlflow.parentRunId", "")

    @property
    def jobs(self) -> list[str]:
        """The names of the jobs that this training or ensemble belongs to."""
        return [tag.removeprefix(JOB_PREFIX) for tag in self.tags if tag.startswith(JOB_PREFIX)]


def evaluated_runs(uri: str, experiment: str) -> list[TrackedRun]:
    """Return the trainings and evaluations of `experiment`, newest first.

    Raises `UserError` if there is no such store or experiment; it names the experiments there are.
    """
    path = sqlite_file(uri)
    if path and not path.exists():
        raise UserError(f"tracking store {path} doesn't exist: train a network first, or {REMEDY}")
    with user_errors(uri):
        client = connect(uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            known = suggest(experiment, sorted(other.name for other in client.search_experiments()))
            raise UserError(f"no experiment '{experiment}' in the tracking store; {known}")
        runs = all_runs(client, found.experiment_id)
    return [_tracked(run) for run in runs if run.data.tags.get(KIND) not in (PUBLISHED, JOB)]


def like_filter(text: str) -> str:
    """Return a LIKE filter of MLflow's for `text`, which may match other texts as well.

    These filters have no escapes: a quote or backslash becomes `_`, which matches any character.
    """
    return "LIKE '" + re.sub(r"['\\]", "_", text) + "'"


def all_runs(client: "MlflowClient", experiment_id: str, filter: str = "") -> "list[Run]":
    """Return the runs of an experiment that pass MLflow's `filter`, newest first."""
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment_id],
            filter,
            max_results=_RUNS_PER_PAGE,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        runs += page
        token = page.token
        if not token:
            return runs


def named_runs(runs: Sequence[TrackedRun], names: Sequence[str] | None) -> list[TrackedRun]:
    """Return the runs with these names, those of jobs with these names, and their evaluations.

    In order; all runs without names. Raises `UserError` for a name that no run and no job has.
    """
    if not names:
        return list(runs)
    known_names = {name for run in runs for name in (run.name, *run.jobs)}
    for name in names:
        if name not in known_names:
            known = suggest(name, sorted(known_names))
            raise UserError(f"no run '{name}' in the experiment; {known}")
    chosen = {run.run_id for run in runs if not {run.name, *run.jobs}.isdisjoint(names)}
    return [run for run in runs if run.run_id in chosen or run.parent in chosen]


@dataclass(frozen=True)
class Point:
    """A metric's value at a step."""

    step: int
    value: float


def histories(uri: str, run: TrackedRun, names: Iterable[str]) -> dict[str, list[Point]]:
    """Return the whole history of each of these metrics that the run has, in order of steps."""
    with user_errors(uri):
        client = connect(uri)
        found = {
            name: client.get_metric_history(run.run_id, name)
            for name in names
            if name in run.metrics
        }
    return {
        name: [Point(metric.step, metric.value) for metric in sorted(history, key=lambda m: m.step)]
        for name, history in found.items()
    }


def tracked_run(uri: str, run_id: str) -> TrackedRun:
    """Return one run; raises `UserError` if it is not there."""
    with user_errors(uri):
        return _tracked(connect(uri).get_run(run_id))


def training_progress(uri: str, experiment: str, names: set[str]) -> dict[str, TrainingProgress]:
    """Return the progress of the newest run of each of `names` that is tracked.

    Raises `UserError` if the tracking store can't be reached; one that doesn't exist yet has no
    runs.
    """
    path = sqlite_file(uri)
    if not names or (path and not path.exists()):
        return {}
    with user_errors(uri):
        client = connect(uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return {}
        newest: dict[str, Run] = {}
        for name in names:
            for run in all_runs(
                client, found.experiment_id, f"attributes.run_name {like_filter(name)}"
            ):
                if run.info.run_name == name:
                    newest.setdefault(name, run)
        return {name: _progress(client, run) for name, run in newest.items()}


def _progress(client: "MlflowClient", run: "Run") -> TrainingProgress:
    metrics, params = run.data.metrics, run.data.params
    epochs = int(params.get("recipe.epochs", 0))
    classes = params.get("recipe.network.num_classes")
    history = client.get_metric_history(run.info.run_id, "train/epochs")
    done = history[-1].value if history else 0.0
    return TrainingProgress(
        run_id=run.info.run_id,
        status=run.info.status,
        epochs_done=done,
        epochs=epochs,
        top1_error=_last_evaluation(metrics, "top1_error"),
        top5_error=_last_evaluation(metrics, "top5_error"),
        images_per_second=metrics.get("train/images_per_second"),
        seconds_left=_seconds_left(history, epochs),
        has_top5=has_top5(int(classes) if classes else None),
    )


def _last_evaluation(metrics: Mapping[str, float], name: str) -> float | None:
    found = [value for key, value in metrics.items() if re.fullmatch(f"eval/.*/{name}", key)]
    return found[0] if len(found) == 1 else None


def _seconds_left(history: list["Metric"], epochs: int) -> float | None:
    """Return the time left at the speed of the last epoch, its evaluation included."""
    if len(history) < 2:
        return None
    last = history[-1]
    first = next(metric for metric in history if metric.value > last.value - 1)
    if first is last:
        first = history[-2]
    seconds = (last.timestamp - first.timestamp) / 1000
    return seconds * (epochs - last.value) / (last.value - first.value)


def _tracked(run: "Run") -> TrackedRun:
    return TrackedRun(
        run_id=run.info.run_id,
        name=run.info.run_name,
        status=run.info.status,
        started=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
        params=run.data.params,
        tags=run.data.tags,
        metrics=run.data.metrics,
    )
