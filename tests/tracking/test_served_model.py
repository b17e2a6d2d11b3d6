"""A registered network behind `mlflow models serve`: a JPEG goes in by HTTP, names come out."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from trained_runs import CLASSES, small_recipe, trained_run

from pipeline.cli.app import main
from pipeline.runs.run_folder import RunFolder
from pipeline.tracking.mlflow_model import log_model
from pipeline.tracking.model_registry import register_model
from pipeline.tracking.queries import tracked_run

_HEADERS = {"Content-Type": "application/json"}


@pytest.fixture
def run(store: str, run_id: str, tmp_path: Path) -> RunFolder:
    """A run whose network is registered as `asked`."""
    recipe = small_recipe()
    folder = trained_run(tmp_path / "runs" / "mine", recipe)
    log_model(store, run_id, recipe, folder.weights, CLASSES)
    assert register_model(store, tracked_run(store, run_id), "asked", {}) == 1
    return folder


@pytest.fixture
def address(run: RunFolder, store: str, tmp_path: Path) -> Iterator[str]:
    """The address of a server of that network, in an empty folder, without this clone's code."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    bin = Path(sys.executable).parent  # where the server's own command is
    place, log = tmp_path / "serving", tmp_path / "server.log"
    place.mkdir()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", "models:/asked/1"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, "--workers", "1"],
            cwd=place,
            env={**os.environ, "MLFLOW_TRACKING_URI": store, "PATH": f"{bin}:{os.environ['PATH']}"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 200
        while not is_up(f"http://127.0.0.1:{port}/ping"):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def is_up(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def post(address: str, content: Mapping[str, Any]) -> Any:
    data = json.dumps(content).encode()
    request = urllib.request.Request(address, data, _HEADERS)
    with urllib.request.urlopen(request, timeout=100) as answer:
        return json.load(answer)["predictions"]


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Compare documents; threads may add up in another order, so that the last bits differ."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        near = [
            {**each, "probability": pytest.approx(each["probability"], abs=1e-5)}
            for each in other["top"]
        ]
        assert one == {**other, "top": near}


def predicted(
    arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[dict[str, Any]]:
    """Return what `ilsvrc predict --json` prints, without the names of files."""
    pillow = ["--set", "cluster.loading.backend=reference"]
    monkeypatch.setattr(sys, "argv", ["ilsvrc", "predict", *arguments, "--json", *pillow])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [{key: value for key, value in each.items() if key != "file"} for each in documents]


def test_a_served_network_answers_as_predict_does(
    address: str,
    run: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encoded = []
    for name, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        path = tmp_path / "photos" / f"{name}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(photo).save(path, quality=90)
        encoded.append(path.read_bytes())
    rows = [{"image": base64.b64encode(data).decode()} for data in encoded]
    expected = predicted([str(run.path), str(tmp_path / "photos")], monkeypatch, capsys)
    assert expected[0]["protocol"] == "center-72-64"
    assert 0.01 < expected[0]["top"][0]["probability"] < 0.99
    assert expected[0]["top"] != expected[1]["top"]
    assert_same(post(address, {"dataframe_records": rows}), expected)

    # Pixels in place of a file: those that the JPEG decodes to.
    with Image.open(io.BytesIO(encoded[0])) as image:
        pixels = np.asarray(image.resize((80, 60)))
    Image.fromarray(pixels).save(tmp_path / "small.png")
    (same,) = predicted(
        [str(run.path), str(tmp_path / "small.png"), "--top", "1"], monkeypatch, capsys
    )
    asked = {"dataframe_records": [{"array": pixels.tolist()}], "params": {"top": 1}}
    assert_same(post(address, asked), [same])
    assert len(same["top"]) == 1

    for content, why in (
        ({"dataframe_records": [rows[0], {"image": "bm8gcGljdHVyZQ=="}]}, "row 1: not an image"),
        ({"dataframe_records": [{"array": [[1, 2], [3]]}]}, "whole numbers from 0 to 255"),
        ({"dataframe_records": [{"array": [[0.5]]}]}, "whole numbers from 0 to 255"),
        ({"dataframe_records": rows, "params": {"top": 0}}, "ask for 1 or more"),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(address, content)
        assert refused.value.code == 400
        assert why in refused.value.read().decode()
