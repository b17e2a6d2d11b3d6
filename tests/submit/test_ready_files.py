"""The ready files of `jobs/` are what their commands render."""

import shlex
import sys
from pathlib import Path

import pytest
import yaml
from kubernetes_server import kuberay_problems

from pipeline.cli.app import main
from pipeline.submit.working_tree import PROJECT

FILES = sorted((PROJECT / "jobs").glob("*/*"))
REFERENCE_RUNS = ["alexnet", "vgg16", "vgg19", "googlenet", "resnet50", "resnet152", "densenet121"]


def test_every_reference_run_is_there_for_both_engines() -> None:
    ensemble = [f"ensemble-resnet{depth}" for depth in (50, 101, 152)]
    for folder in ("kuberay", "slurm"):
        names = {path.stem for path in FILES if path.parent.name == folder}
        assert names == {*REFERENCE_RUNS, *ensemble}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_ready_file_is_what_its_command_renders(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = path.read_text(encoding="utf-8")
    (command,) = [line[2:] for line in text.splitlines()[:2] if line.startswith("# ilsvrc submit")]
    monkeypatch.setattr(sys, "argv", [*shlex.split(command), "--dry-run"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert capsys.readouterr().out == text, f"`make jobs` renders it again: {command}"
    if path.suffix == ".yaml":
        for manifest in yaml.safe_load_all(text):
            assert manifest["kind"] == "ConfigMap" or kuberay_problems(manifest) == []


def test_the_ensemble_is_of_six_networks() -> None:
    seeds = [
        training
        for path in FILES
        if path.name.startswith("ensemble") and path.suffix == ".yaml"
        for training in yaml.safe_load_all(path.read_text(encoding="utf-8"))
        if training["kind"] == "RayJob"
    ]
    assert len({job["metadata"]["annotations"]["ilsvrc/run"] for job in seeds}) == 6
