"""A run is recorded with the command that made it: typed again, it makes the same run."""

import hashlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli.app import main
from pipeline.cli.command_line import command_line
from pipeline.tracking.queries import TrackedRun, evaluated_runs


def run(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a line as the command's own process would."""
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0


def tracked(folder: Path, experiment: str) -> list[TrackedRun]:
    return evaluated_runs(f"sqlite:///{folder}/mlflow.db", experiment)


def weights_digest(folder: Path) -> str:
    weights = folder / "runs" / "mine" / "weights.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def test_the_recorded_command_trains_to_the_same_weights(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = (
        "ilsvrc train smoke --run mine --set epochs=1 --set 'seed = 3' "
        "--set=cluster.workers.count=0 --set 'cluster.tracking={experiment: two words}'"
    )
    run(typed, monkeypatch)
    (trained,) = tracked(workspace, "two words")
    assert shlex.split(trained.tags["command"]) == shlex.split(typed)

    elsewhere = workspace / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "data").symlink_to(workspace / "data")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        trained.tags["command"], cwd=elsewhere, env=environment, shell=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert weights_digest(elsewhere) == weights_digest(workspace)
    (again,) = tracked(elsewhere, "two words")
    assert again.tags["command"] == trained.tags["command"]
    assert again.tags["recipe.digest"] == trained.tags["recipe.digest"]


def test_evaluations_and_ensembles_are_recorded_with_their_commands(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seed in (("mine", 1), ("other", 2)):
        settings = f"--set epochs=1 --set seed={seed} --set cluster.workers.count=0"
        run(f"ilsvrc train smoke --run {name} {settings}", monkeypatch)
    evaluate = "ilsvrc evaluate mine --set cluster.workers.count=0 --set cluster.loading.threads="
    for threads in (1, 2):  # the second is the same evaluation again
        run(f"{evaluate}{threads}", monkeypatch)
    ensemble = "ilsvrc ensemble mine other --weights 0.75,0.25"
    run(ensemble, monkeypatch)
    commands = [run.tags["command"] for run in tracked(workspace, "ilsvrc")]  # newest first
    assert commands[:2] == [ensemble, f"{evaluate}2"]
    assert len(commands) == 4


@pytest.mark.parametrize(
    "argument",
    [
        "cluster.tracking.uri=http://bob:secret@host:5000",
        "--set=cluster.tracking.uri=http://bob:secret@host:5000",
        "cluster.tracking.uri='http://bob:s e c r e t secret@x@host:5000'",
        'cluster.tracking={uri: "http://bob:secret@host:5000", required: false}',
        "cluster.data_dir=s3://key:secret@bucket/data",
    ],
)
def test_a_recorded_command_holds_no_credentials(argument: str) -> None:
    line = command_line(["train", "smoke", "--set", argument])
    assert line
    assert "secret" not in line
    assert "bob" not in line
    assert shlex.split(line)[:3] == ["ilsvrc", "train", "smoke"]
    assert "host:5000" in line or "bucket/data" in line


def test_a_call_without_a_command_line_records_none() -> None:
    assert command_line(None) is None
