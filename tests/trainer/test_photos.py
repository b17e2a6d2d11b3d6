"""AlexNet trains on a folder of real photographs by the same commands."""

import sys
from pathlib import Path

import pytest

from pipeline.cli.app import main
from pipeline.data.store.store import Store
from pipeline.tracking.queries import evaluated_runs


def ilsvrc(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["ilsvrc", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0


def test_a_folder_of_jpegs_trains_alexnet(
    photo_folder: Path,
    tmp_path: Path,
    tracking_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    ilsvrc(monkeypatch, "prepare", "folder", str(photo_folder), "--to", "data/photos")
    assert "2 classes" in capsys.readouterr().out
    store = Store.open(tmp_path / "data" / "photos")
    num_val = len(store.split("val"))
    assert len(store.split("train")) + num_val == 24
    assert 2 <= num_val <= 8  # drawn by the keys' digests, at least one of each class
    ilsvrc(
        monkeypatch,
        *("train", "alexnet", "--run", "photos"),
        *("--set", "data.name=photos"),
        *("--set", "network.num_classes=2"),
        *("--set", "batch={global_batch_size: 8, micro_batch_size: 4}"),
        *("--set", "epochs=1"),
        *("--set", "cluster.workers.count=0"),
        *("--set", "cluster.saving.log_every_steps=1"),
        *("--set", "cluster.tracking.experiment=photos"),
    )
    out = capsys.readouterr().out
    for step in (1, 2, 3):
        assert f"epoch 1/1 step {step}/3" in out
    (run,) = evaluated_runs(tracking_uri, "photos")
    assert run.status == "FINISHED"
    assert run.metrics["eval/val/center-256-224/images"] == num_val
    assert run.params["recipe.network.name"] == "alexnet"
    assert run.tags["dataset.digest"] == store.digest
    assert {path.name for path in (tmp_path / "runs" / "photos").iterdir()} == {
        ".lock", "checkpoints", "comparison.md", "metrics.jsonl", "predictions", "recipe.yaml",
        "run.json", "weights.safetensors",
    }  # fmt: skip
