"""A training and its tracking server: it doesn't wait for it, and shows nobody its password."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from tracking_servers import Proxy, Server, mlflow_server

from pipeline.tracking.mlflow_client import connect

pytestmark = pytest.mark.slow

_PASSWORD = "open-sesame"
_STEPS = 30


@dataclass
class Tracked:
    """What was seen of a training whose server held back its answer to the first metrics."""

    folder: Path
    server: Server
    output: str
    steps_before_an_answer: int
    commands_of_children: list[str]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = mlflow_server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module", params=[0, 2])
def tracked(
    request: pytest.FixtureRequest,
    data_dir: Path,
    server: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Tracked:
    folder = tmp_path_factory.mktemp("tracked")
    (folder / "data").symlink_to(data_dir)
    metrics = folder / "runs/mine/metrics.jsonl"
    is_asked, may_answer = threading.Event(), threading.Event()

    def hold_metrics(path: str, body: bytes) -> None:
        if path.endswith("/runs/log-batch") and b'"train/loss"' in body:
            is_asked.set()
            may_answer.wait(60)

    with Proxy(server.uri, hold_metrics) as proxy:
        uri = f"http://bob:{_PASSWORD}@127.0.0.1:{proxy.port}"
        process = _ilsvrc(
            f"train smoke --run mine --set epochs=2 --set cluster.workers.count={request.param} "
            f"--set cluster.saving.log_every_steps=1 --set cluster.tracking.uri={uri}",
            folder,
        )
        commands, steps = set[str](), 0
        while process.poll() is None:
            commands |= _commands_of_children(process.pid)
            if is_asked.is_set() and not may_answer.is_set():
                steps = metrics.read_text().count('"train/loss"')
                if '"eval/' in metrics.read_text() and steps == _STEPS:
                    may_answer.set()
            time.sleep(0.05)
        output = process.communicate()[0]
        assert process.returncode == 0, output
        for command in (
            "evaluate mine --set cluster.workers.count=0",
            "report ilsvrc --to report.html",
        ):
            process = _ilsvrc(command, folder, MLFLOW_TRACKING_URI=uri)
            output += process.communicate()[0]
            assert process.returncode == 0, output
    return Tracked(folder, server, output, steps, sorted(commands))


def test_all_steps_are_computed_while_the_server_has_not_answered_the_first_metrics(
    tracked: Tracked,
) -> None:
    assert tracked.steps_before_an_answer == _STEPS
    lines = (tracked.folder / "runs/mine/metrics.jsonl").read_text().splitlines()
    written = [
        (line["step"], line["metrics"]["train/loss"])
        for line in map(json.loads, lines)
        if "train/loss" in line["metrics"]
    ]
    record = json.loads((tracked.folder / "runs/mine/run.json").read_text())
    assert record["is_recorded"]  # with all its files
    client, run_id = connect(tracked.server.uri), record["tracking_run_id"]
    history = client.get_metric_history(run_id, "train/loss")
    assert sorted((metric.step, metric.value) for metric in history) == written


def test_the_password_of_the_tracking_server_is_shown_and_stored_nowhere(
    tracked: Tracked,
) -> None:
    folders = (tracked.folder, tracked.server.folder)
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    for name in ("run.json", "mlflow.db", "report.html", "weights.safetensors", "server.log"):
        assert name in {path.name for path in files}
    assert [path for path in files if _PASSWORD.encode() in path.read_bytes()] == []
    assert "epoch 2/2" in tracked.output
    assert _PASSWORD not in tracked.output
    assert [line for line in tracked.commands_of_children if _PASSWORD in line] == []


def _ilsvrc(arguments: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments.split()],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _commands_of_children(process: int) -> set[str]:
    lines = set()
    try:
        for child in psutil.Process(process).children(recursive=True):
            lines.add(" ".join(child.cmdline()))
    except psutil.Error:
        pass  # ended meanwhile
    return lines
