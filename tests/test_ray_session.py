"""A Ray of the command's own is closed to strangers and leaves nothing behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.ray_session import ray_session

PROGRAM = """
import json, os, subprocess, sys
from pathlib import Path
import ray
from pipeline.ray_session import ray_session
with ray_session("local", num_cpus=1):
    context = ray.get_runtime_context()
    stranger = subprocess.run(
        [sys.executable, "-c", f"import ray; ray.init(address='{context.gcs_address}')"],
        env={**os.environ, "RAY_AUTH_MODE": "disabled"}, capture_output=True, text=True,
    )
    dashboard = ray._private.worker.global_worker.node.webui_url
    folders = [str(path) for path in Path("/tmp").glob(f"ilsvrc-{os.getpid()}-*")]
print(json.dumps({"stranger": stranger.stderr, "dashboard": dashboard, "folders": folders}))
"""


def test_a_session_refuses_strangers_and_is_gone_afterwards() -> None:
    stale = Path("/tmp/ilsvrc-99999999-killed")  # beyond the largest number of a process
    stale.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    story = json.loads(done.stdout.splitlines()[-1])
    assert "Authentication" in story["stranger"]
    assert story["dashboard"].startswith("127.0.0.1:")
    (folder,) = story["folders"]
    assert not Path(folder).exists()
    assert not stale.exists()


def test_no_ray_at_the_address_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whatever other tests of this process have up.
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with (
        pytest.raises(UserError, match=r"Ray at '127.0.0.1:9' can't be joined: .*ray start"),
        ray_session("127.0.0.1:9"),
    ):
        raise AssertionError("joined nothing")
