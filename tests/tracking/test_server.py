"""A real MLflow server that is killed and started again."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tracking_servers import Server, mlflow_server

from pipeline.tracking.mlflow_client import connect
from pipeline.tracking.mlflow_runs import check_reachable, finish_run, log_files, start_run
from pipeline.tracking.queries import evaluated_runs
from pipeline.tracking.tracker import Tracker

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "mlflow.db")
    server = mlflow_server(folder)
    server.start()
    yield server
    server.kill()


def test_a_server_killed_midway_gets_each_metric_once_and_in_order(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_reachable(server.uri)
    run_id = start_run(server.uri, "ours", run_name="a", params={"seed": 1}, tags={"device": "cpu"})
    tracker = Tracker(server.uri, lambda: run_id, tmp_path, seconds_between_batches=0.01)
    slowest = 0.0
    for step in range(600):
        if step == 200:
            server.kill()
        if step == 500:
            server.start()
        start = time.perf_counter()
        tracker.log({"loss": step / 7, "error": 1 / (step + 1)}, step)
        slowest = max(slowest, time.perf_counter() - start)
        time.sleep(0.002)
    tracker.close()
    assert slowest < 1.0
    assert not caplog.records

    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(600))
    for key in ("loss", "error"):
        history = connect(server.uri).get_metric_history(run_id, key)
        delivered = [(m.step, m.timestamp, m.value) for m in history]
        assert delivered == [(line["step"], line["time"], line["metrics"][key]) for line in lines]

    log_files(server.uri, run_id, [tmp_path / "metrics.jsonl"])
    assert [file.path for file in connect(server.uri).list_artifacts(run_id)] == ["metrics.jsonl"]
    finish_run(server.uri, run_id, "FINISHED")
    (run,) = evaluated_runs(server.uri, "ours")
    assert (run.status, run.params, run.metrics["loss"]) == ("FINISHED", {"seed": "1"}, 599 / 7)
