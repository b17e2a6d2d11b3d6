"""What comparison reads from the tracking store."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.tracking.client import MEND, connect, reaching, sqlite_file

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True)
class TrackedRun:
    """A run as the store knows it; `metrics` holds the value of each metric's last step."""

    run_id: str
    name: str
    status: str
    started: datetime
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]


def evaluated_runs(uri: str, experiment: str) -> list[TrackedRun]:
    """Return the runs of `experiment`, newest first.

    Raises `UserError` if there is no such store or experiment; it names the experiments there are.
    """
    path = sqlite_file(uri)
    if path and not path.exists():
        raise UserError(f"tracking store {path} doesn't exist: train a network first, or {MEND}")
    with reaching(uri):
        client = connect(uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            known = ", ".join(sorted(other.name for other in client.search_experiments()))
            raise UserError(
                f"no experiment '{experiment}' in the tracking store; there are: {known}"
            )
        runs: list[Run] = []
        token = None
        while True:
            page = client.search_runs(
                [found.experiment_id], order_by=["attributes.start_time DESC"], page_token=token
            )
            runs += page
            token = page.token
            if not token:
                break
    return [_tracked(run) for run in runs]


def tracked_run(uri: str, run_id: str) -> TrackedRun:
    """Return one run; raises `UserError` if it is not there."""
    with reaching(uri):
        return _tracked(connect(uri).get_run(run_id))


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
