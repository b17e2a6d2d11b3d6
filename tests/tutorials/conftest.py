"""A folder to work in, and a command line in it."""

from pathlib import Path

import pytest
from command import Shell


@pytest.fixture
def shell(
    tmp_path: Path,
    tracking_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Shell:
    """A command line in an empty folder, `tmp_path`; runs are recorded at `tracking_uri`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    monkeypatch.setenv("COLUMNS", "120")
    return Shell(monkeypatch, capsys)
