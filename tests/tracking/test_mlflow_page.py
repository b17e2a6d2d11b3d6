"""MLflow's page opens with the errors in columns, where its runs are, and stays so."""

import json
from pathlib import Path
from urllib.parse import unquote

from pipeline.tracking.mlflow_client import connect
from pipeline.tracking.mlflow_page import comparison_address, experiment_address, show_errors
from pipeline.tracking.mlflow_runs import start_run

TAG = "mlflow.sharedViewState.errors"


def made(folder: Path) -> str:
    uri = f"sqlite:///{folder}/mlflow.db"
    start_run(uri, "ours", run_name="a", params={}, tags={})
    return uri


def columns(uri: str) -> list[str]:
    tags = connect(uri).get_experiment_by_name("ours").tags
    view = json.loads(tags[TAG])
    assert len(tags[TAG]) < 5000  # what MLflow keeps of a tag
    assert view["columnOrder"] == view["selectedColumns"]
    metrics = [each for each in view["selectedColumns"] if each.startswith("metrics")]
    assert list(view["columnWidths"]) == metrics
    return [each.removeprefix("metrics.`eval/").rstrip("`") for each in metrics]


def test_the_newest_errors_come_first_and_not_without_end(tmp_path: Path) -> None:
    uri = made(tmp_path)
    show_errors(uri, "ours", "val", "center-256-224", 1000)
    show_errors(uri, "ours", "val", "center-32-32", 5)  # of so few classes, top-5 says nothing
    assert columns(uri) == [
        "val/center-32-32/top1_error",
        "val/center-256-224/top1_error",
        "val/center-256-224/top5_error",
    ]
    show_errors(uri, "ours", "val", "center-256-224", 1000)  # is there: the order stays
    assert columns(uri)[0] == "val/center-32-32/top1_error"
    for number in range(100, 120):
        show_errors(uri, "ours", "val", f"dense-3-scales-of-a-long-name-{number}", 1000)
    assert len(columns(uri)) == 12
    assert columns(uri)[0] == "val/dense-3-scales-of-a-long-name-119/top1_error"


def test_a_view_that_is_not_ours_is_replaced(tmp_path: Path) -> None:
    uri = made(tmp_path)
    client = connect(uri)
    experiment = client.get_experiment_by_name("ours").experiment_id
    for odd in ("deflate;abc", "[]", '{"selectedColumns": null}', '{"selectedColumns": [3]}'):
        client.set_experiment_tag(experiment, TAG, odd)
        show_errors(uri, "ours", "val", "whole", 10)
        assert columns(uri) == ["val/whole/top1_error", "val/whole/top5_error"]


def test_addresses_lead_to_the_runs(tmp_path: Path) -> None:
    uri = made(tmp_path)
    page = "http://127.0.0.1:5000/#/experiments/1/runs?viewStateShareKey=errors"
    assert experiment_address(uri, "ours") == page
    address = comparison_address(uri, "ours", ["ab", "cd"])
    assert " " not in address
    expected = '/#/compare-runs?runs=["ab","cd"]&experiments=["1"]'
    assert unquote(address) == f"http://127.0.0.1:5000{expected}"
