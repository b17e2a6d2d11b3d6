import json
import logging
import math
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from pipeline.tracking import metric_log
from pipeline.tracking import tracker as tracker_module
from pipeline.tracking.mlflow_client import connect, sqlite_file
from pipeline.tracking.tracker import Tracker


def in_store(uri: str, run_id: str, key: str = "loss") -> list[tuple[int, float]]:
    history = connect(uri).get_metric_history(run_id, key)
    return [(metric.step, metric.value) for metric in sorted(history, key=lambda m: m.step)]


def in_file(folder: Path, key: str = "loss") -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["metrics"][key]) for line in lines if key in line["metrics"]]


def track(uri: str, run_id: str, folder: Path, steps: range, scale: float = 1.0) -> None:
    tracker = Tracker(uri, lambda: run_id, folder, seconds_between_batches=0.01)
    for step in steps:
        tracker.log({"loss": scale * step, "error": scale / (step + 1)}, step)
    tracker.close()


def test_metrics_carry_their_steps_and_the_file_equals_the_store(
    store: str, run_id: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    track(store, run_id, tmp_path, range(700))  # 1,400 metrics: more than one call may hold
    assert in_store(store, run_id) == in_file(tmp_path) == [(step, step) for step in range(700)]
    assert in_store(store, run_id, "error") == in_file(tmp_path, "error")
    assert not caplog.records


def test_a_resumed_training_repeats_no_step(store: str, run_id: str, tmp_path: Path) -> None:
    track(store, run_id, tmp_path, range(20))
    track(store, run_id, tmp_path, range(12, 30), scale=5.0)
    expected = [(step, step if step < 20 else 5.0 * step) for step in range(30)]
    assert in_store(store, run_id) == in_file(tmp_path) == expected


def test_a_run_without_its_file_continues_after_the_steps_in_the_store(
    store: str, run_id: str, tmp_path: Path
) -> None:
    track(store, run_id, tmp_path, range(20))
    (tmp_path / "metrics.jsonl").unlink()
    track(store, run_id, tmp_path, range(12, 30), scale=5.0)
    assert in_store(store, run_id) == [
        (step, step if step < 20 else 5.0 * step) for step in range(30)
    ]


def test_an_absent_server_neither_stalls_nor_fails_and_gets_all_later(
    store: str,
    run_id: str,
    tmp_path: Path,
    closed_port: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_asked, is_all_logged = threading.Event(), threading.Event()
    did_not_wait: list[bool] = []

    def ask(uri: str) -> object:
        is_asked.set()
        did_not_wait.append(is_all_logged.wait(60))
        return connect(uri)

    monkeypatch.setattr(tracker_module, "connect", ask)
    away = f"http://bob:secret@127.0.0.1:{closed_port}"
    tracker = Tracker(
        away, lambda: run_id, tmp_path, seconds_between_batches=0.01, seconds_to_close=0.5
    )
    assert is_asked.wait(60)
    for step in range(3000):
        tracker.log({"loss": step}, step)
    is_all_logged.set()
    tracker.close()
    assert did_not_wait[0]
    monkeypatch.undo()
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert str(tmp_path / "metrics.jsonl") in warning.getMessage()
    assert f"http://127.0.0.1:{closed_port}" in warning.getMessage()
    assert "secret" not in caplog.text
    assert len(in_file(tmp_path)) == 3000

    track(store, run_id, tmp_path, range(3000, 3010))
    assert in_store(store, run_id) == [(step, step) for step in range(3010)]


def test_a_store_that_stops_answering_gives_a_warning(
    store: str, run_id: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker(
        store, lambda: run_id, tmp_path, seconds_between_batches=0.01, seconds_to_close=0.5
    )
    tracker.log({"loss": 0.0}, 0)
    while tracker._problem:  # until the delivery is over, which is after the store has the metric
        time.sleep(0.01)
    assert in_store(store, run_id) == [(0, 0.0)]
    with closing(sqlite3.connect(str(sqlite_file(store)))) as database:
        database.execute("BEGIN IMMEDIATE")  # MLflow waits for the lock, longer than the tracker
        tracker.log({"loss": 1.0}, 1)
        tracker.close()
    (warning,) = caplog.records
    assert "mlflow.db doesn't answer. All metrics are in" in warning.getMessage()


def test_a_logged_step_survives_the_kill_of_its_process(
    store: str, run_id: str, tmp_path: Path
) -> None:
    program = (
        "import itertools, pathlib, sys, time\n"
        "from pipeline.tracking.tracker import Tracker\n"
        "uri, run_id, folder = sys.argv[1:]\n"
        "folder = pathlib.Path(folder)\n"
        "tracker = Tracker(uri, lambda: run_id, folder, seconds_between_batches=0.01)\n"
        "for step in itertools.count():\n"
        "    tracker.log({'loss': step, 'error': 0.5}, step)\n"
        "    print(step, flush=True)\n"
        "    time.sleep(0.002)\n"
    )
    command = [sys.executable, "-c", program, store, run_id, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = []
        while not connect(store).get_run(run_id).data.metrics:
            printed.append(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        last = int([*printed, *process.stdout][-1])
    steps = [step for step, _ in in_file(tmp_path)]
    assert steps in (list(range(last + 1)), list(range(last + 2)))

    track(store, run_id, tmp_path, range(last - 5, last + 10))
    assert in_store(store, run_id) == in_file(tmp_path) == [(s, s) for s in range(last + 10)]


def test_values_that_are_not_finite_reach_the_store(
    store: str, run_id: str, tmp_path: Path
) -> None:
    tracker = Tracker(store, lambda: run_id, tmp_path, seconds_between_batches=0.01)
    tracker.log({"loss": math.nan, "norm": math.inf}, 1)
    tracker.close()
    assert math.isnan(in_store(store, run_id)[0][1])
    assert in_store(store, run_id, "norm") == [(1, sys.float_info.max)]


def test_a_store_that_refuses_the_run_gives_one_warning(
    store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker(
        store, lambda: "0" * 32, tmp_path, seconds_between_batches=0.01, seconds_to_close=0.5
    )
    tracker.log({"loss": 1.0}, 1)
    tracker.close()
    (warning,) = caplog.records
    assert "mlflow.db says: " in warning.getMessage()


def test_while_the_disk_is_full_metrics_are_sent_and_the_file_gets_them_when_there_is_room(
    store: str, run_id: str, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker(store, lambda: run_id, small_disk, seconds_between_batches=0.01)
    for step in range(600):
        if step == 100:
            with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
                while filler.write(b"x" * 999):
                    pass
        if step == 200:
            await_metrics(store, run_id, 200)
        if step == 300:
            assert len(in_file(small_disk)) < 200
            (small_disk / "filler").unlink()
        tracker.log({"loss": step}, step)
    tracker.close()
    assert in_store(store, run_id) == in_file(small_disk) == [(step, step) for step in range(600)]
    (warning,) = caplog.records
    assert "metrics.jsonl (No space left on device); 10,000 records wait" in warning.getMessage()
    assert "metrics.lost" not in connect(store).get_run(run_id).data.tags


def await_metrics(uri: str, run_id: str, number: int) -> None:
    while len(in_store(uri, run_id)) < number:
        time.sleep(0.01)


def test_a_run_whose_metrics_were_lost_says_so(
    store: str, run_id: str, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metric_log, "MOST_WAITING", 10)
    is_away = threading.Event()
    is_away.set()

    def run() -> str:
        return "" if is_away.is_set() else run_id

    with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while filler.write(b"x" * 999):
            pass
    tracker = Tracker(store, run, small_disk, seconds_between_batches=0.01)
    for step in range(60):
        tracker.log({"loss": step}, step)
    is_away.clear()
    tracker.close()
    steps = [step for step, _ in in_store(store, run_id)]
    assert steps == [*range(60 - len(steps), 60)]
    tags = connect(store).get_run(run_id).data.tags
    assert tags["metrics.lost"] == f"{60 - len(steps)} records of steps 0 to {59 - len(steps)}"
