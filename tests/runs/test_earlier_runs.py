"""Runs and data that an earlier version made are still resumed, evaluated, compared and opened.

`earlier_runs.tar.xz` was made at commit 7581df8 with

    ilsvrc prepare folder photos; ilsvrc prepare mnist1d
    ilsvrc train mnist1d_conv --set epochs=4 --run finished
    ilsvrc train mnist1d_conv --set epochs=4 --run stopped      # stopped after 21 of its 160 steps

in one process (`cluster.workers.count=0`). Both runs have the same recipe and seed, so that the
stopped one ends in the weights of the finished one. It holds their folders, the packed photographs
and the MLflow store; MNIST-1D is drawn again, to the same digest.
"""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.config.recipe import load_recipe
from pipeline.config.yaml import digest
from pipeline.tracking.mlflow_client import connect

ILSVRC = Path(sys.executable).with_name("ilsvrc")
ARCHIVE = Path(__file__).with_name("earlier_runs.tar.xz")
IN_PROCESS = ["--set", "cluster.workers.count=0", "--set", "cluster.loading.backend=reference"]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of the earlier version, moved from `/earlier`."""
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    ilsvrc(folder, "prepare", "mnist1d")
    return folder


def ilsvrc(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    done = subprocess.run(
        [str(ILSVRC), *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_stopped_run_is_resumed_in_its_mlflow_run(earlier: Path) -> None:
    run = earlier / "runs" / "stopped"
    run_id = json.loads((run / "run.json").read_text())["tracking_run_id"]
    said = ilsvrc(
        earlier, "train", "mnist1d_conv", *IN_PROCESS, "--set", "epochs=4", "--run", "stopped",
        "--set", "cluster.saving.log_every_steps=5",
    )  # fmt: skip
    assert "after 0 epochs and 21 steps" in said
    resumed = load_file(run / "weights.safetensors")
    undisturbed = load_file(earlier / "runs" / "finished" / "weights.safetensors")
    for name, weights in undisturbed.items():
        # Not bit for bit: these were computed on another machine.
        torch.testing.assert_close(resumed[name], weights, rtol=1e-3, atol=1e-4)

    client = connect(f"sqlite:///{earlier}/mlflow.db")
    assert client.get_run(run_id).info.status == "FINISHED"
    steps = [metric.step for metric in client.get_metric_history(run_id, "train/loss")]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (5, 160)


def test_a_finished_run_is_complete_and_evaluated_to_the_same_counts(earlier: Path) -> None:
    arguments = ["train", "mnist1d_conv", *IN_PROCESS, "--set", "epochs=4", "--run", "finished"]
    assert "complete" in ilsvrc(earlier, *arguments)
    kept = ilsvrc(earlier, "predictions", "finished")
    assert "69.30" in kept
    assert "69.30" in ilsvrc(earlier, "evaluate", "finished", *IN_PROCESS)


def test_finished_runs_are_compared_and_reported(earlier: Path) -> None:
    assert "69.30" in ilsvrc(earlier, "compare")
    ilsvrc(earlier, "report", "ilsvrc", "--to", "report.html")
    assert "69.30" in (earlier / "report.html").read_text()


def test_packed_data_is_opened_and_whole(earlier: Path) -> None:
    assert "china" in ilsvrc(earlier, "doctor", "data/photos")


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("alexnet", "b86e749734f89473"),
        ("densenet121", "94330b85ed650391"),
        ("googlenet", "d68c2052145e7b5f"),
        ("inception_v3", "5c24c113a914cf6d"),
        ("lenet5", "85d9c27706059ab7"),
        ("mnist1d_conv", "5fef543dae551745"),
        ("resnet50", "26cfcfa919c46401"),
        ("resnet50_modern", "a3ca62ec80d7e1e9"),
        ("smoke", "ee62fa457a028854"),
        ("vgg16", "0e583e7ed0c8bc66"),
    ],
)
def test_recipes_keep_their_digests(recipe: str, expected: str) -> None:
    assert digest(load_recipe(recipe))[:16] == expected
