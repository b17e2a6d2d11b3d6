"""MLflow's page of an experiment: the columns that it opens with, and its address.

MLflow keeps a view that is shared by a link as a tag of its experiment, and its page reads that
view where the link names its key.
"""

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from pipeline.evaluation.metrics import has_top5
from pipeline.runtime.credentials import without_credentials
from pipeline.tracking.mlflow_client import connect, sqlite_file, user_errors

_KEY = "errors"
_TAG = f"mlflow.sharedViewState.{_KEY}"
_MOST_COLUMNS = 12  # MLflow cuts tags of experiments at 5,000 characters
_LOCAL = "http://127.0.0.1:5000"  # where `mlflow ui` listens


def show_errors(uri: str, experiment: str, split: str, protocol: str, num_classes: int) -> None:
    """Have the page show the errors on `split` by `protocol`, before those that it shows already.

    The experiment must exist.
    """
    errors = ("top1_error", "top5_error") if has_top5(num_classes) else ("top1_error",)
    new = [f"metrics.`eval/{split}/{protocol}/{error}`" for error in errors]
    with user_errors(uri):
        client = connect(uri)
        found = client.get_experiment_by_name(experiment)
        assert found is not None
        before = _error_columns(found.tags.get(_TAG, ""))
        columns = [*new, *(column for column in before if column not in new)][:_MOST_COLUMNS]
        if set(columns) != set(before):
            client.set_experiment_tag(found.experiment_id, _TAG, json.dumps(_view(columns)))


def experiment_address(uri: str, experiment: str) -> str:
    """Return the address of the experiment's runs, their errors in columns."""
    page = f"{_pages(uri)}/experiments/{_experiment_id(uri, experiment)}"
    return f"{page}/runs?viewStateShareKey={_KEY}"


def comparison_address(uri: str, experiment: str, run_ids: Sequence[str]) -> str:
    """Return the address where runs of the experiment stand side by side."""
    runs = quote(json.dumps(list(run_ids), separators=(",", ":")))
    experiments = quote(json.dumps([_experiment_id(uri, experiment)]))
    return f"{_pages(uri)}/compare-runs?runs={runs}&experiments={experiments}"


def _pages(uri: str) -> str:
    return f"{_LOCAL if sqlite_file(uri) else without_credentials(uri).rstrip('/')}/#"


def _experiment_id(uri: str, experiment: str) -> str:
    with user_errors(uri):
        found = connect(uri).get_experiment_by_name(experiment)
    assert found is not None
    return str(found.experiment_id)


def _error_columns(view: str) -> list[str]:
    try:
        columns = json.loads(view)["selectedColumns"]
        return [column for column in columns if column.startswith("metrics.`eval/")]
    except (ValueError, TypeError, KeyError, AttributeError):  # none yet, or somebody else's
        return []


def _view(error_columns: Sequence[str]) -> dict[str, Any]:
    """Return the state of the page; what is not in it is as MLflow has it."""
    columns = ["params.`recipe.network.name`", *error_columns, "attributes.`Dataset`"]
    return {
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "startTime": "ALL",
        "searchFilter": "",
        "datasetsFilter": [],
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": dict.fromkeys(error_columns, 7 * max(map(len, error_columns), default=0)),
    }
