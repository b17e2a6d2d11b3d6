"""The jobs in `jobs/`: every engine takes them, and they measure what they are to meet."""

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from kubernetes_server import kuberay_problems

from pipeline.cli.app import main
from pipeline.config.job import Job, JobMember, load_job
from pipeline.config.protocol import TestProtocol
from pipeline.data.store.manifest import ImageClass
from pipeline.evaluation.ensemble import ensemble
from pipeline.evaluation.predictions import PredictionMetadata, Predictions
from pipeline.results.measured import measured_from_predictions
from pipeline.results.published import ResultKey
from pipeline.submit.working_tree import PROJECT

JOBS = sorted((PROJECT / "jobs").iterdir())
EXAMPLES = sorted((PROJECT / "docs" / "jobs").iterdir())
Render = Callable[[list[str]], str]

ENGINES = ("laptop", "ray", "kuberay", "slurm")


def test_there_is_a_job_for_each_reference_network_and_each_ensemble_of_the_papers() -> None:
    networks = {"alexnet", "vgg16", "vgg19", "googlenet", "resnet50", "resnet152", "densenet121"}
    small = {"smoke", "mnist1d"}
    ensembles = {"alexnet-5": 5, "vgg-2": 2, "vgg-7": 7, "googlenet-7": 7, "resnet-6": 6}
    assert {path.stem for path in JOBS} == networks | small | ensembles.keys()
    for name, size in ensembles.items():
        job = load_job(f"{PROJECT}/jobs/{name}.yaml")
        assert len(job.members) == size
        assert job.document.ensemble
        assert size in {result.ensemble_size for result in job.document.expect}


@pytest.fixture
def render(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Render:
    """Run a command with --dry-run in the project's folder; return what it prints."""
    monkeypatch.chdir(PROJECT)

    def run(command: list[str]) -> str:
        monkeypatch.setattr(sys, "argv", [*command, "--dry-run"])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_every_engine_takes_every_job(path: Path, engine: str, render: Render) -> None:
    name = str(path.relative_to(PROJECT))
    options = []
    if path.stem == "mnist1d":  # whose steps have two micro-batches
        options = ["--set", "cluster.workers.count=1"]
        if engine in ("kuberay", "slurm"):
            options += ["--set", "cluster.engine.workers_per_node=1"]
    text = render(["ilsvrc", "submit", name, "--on", engine, *options])
    runs = [member.run for member in load_job(name).members]
    command = shlex.join(["jobs", "run", name, "--on", engine, *options])
    match engine:
        case "laptop":
            assert text.splitlines()[1:] == [f"ilsvrc {command}"]
        case "ray":
            entrypoints = [request["entrypoint"] for request in yaml.safe_load_all(text)]
            assert entrypoints == [f"python -m pipeline {command} --run {run}" for run in runs]
        case "kuberay":
            manifests = list(yaml.safe_load_all(text))
            jobs = [one for one in manifests if one["kind"] == "RayJob"]
            assert [one["metadata"]["annotations"]["ilsvrc/run"] for one in jobs] == runs
            for job in jobs:
                assert kuberay_problems(job) == []
        case _:
            subprocess.run(["bash", "-n"], input=text, text=True, check=True)
            assert f'{command} --run "$run"' in text
            assert all(run in text for run in runs)


def test_a_job_mounted_by_kuberay_makes_the_same_runs_from_the_users_own_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, render: Render
) -> None:
    here, pod = tmp_path / "here", tmp_path / "pod"
    (here / "configs" / "recipes").mkdir(parents=True)
    for name in ("mine", "yours"):
        recipe = (PROJECT / "configs" / "recipes" / "resnet18.yaml").read_text()
        (here / "configs" / "recipes" / f"{name}.yaml").write_text(f"{recipe}seed: {len(name)}\n")
    (here / "two.yaml").write_text("trainings: [{recipe: mine, seeds: [0, 1]}, {recipe: yours}]")
    monkeypatch.chdir(here)
    expected = [member.run for member in load_job("two.yaml").members]
    job, documents = list(
        yaml.safe_load_all(render(["ilsvrc", "submit", "two.yaml", "--on", "kuberay"]))
    )[:2]
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (volume,) = [one for one in head["volumes"] if one["name"] == "documents"]
    for item in volume["configMap"]["items"]:
        file = pod / item["path"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(documents["data"][item["key"]].replace("/etc/ilsvrc", str(pod)))
    monkeypatch.chdir(pod)
    mounted = load_job(f"{pod}/two.yaml")
    assert [member.run for member in mounted.members] == expected
    assert mounted.name == "two"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_measures_the_published_results_that_it_expects(path: Path) -> None:
    job = load_job(str(path))
    measured = measured_keys(job)
    assert job.document.expect or path.stem == "smoke"
    for expected in job.document.expect:
        key = ResultKey(**expected.model_dump())
        # The test set's labels are not public: the ResNets' error on val stands beside theirs.
        assert key in measured or (path.stem, key.split) == ("resnet-6", "test"), key


def measured_keys(job: Job) -> set[ResultKey]:
    singles = [
        predictions_of(member, protocol) for member in job.members for protocol in member.protocols
    ]
    averages = [
        ensemble([predictions_of(m, m.ensemble[name]) for m in job.members], protocol=name)
        for name in job.document.ensemble
    ]
    return {measured_from_predictions(one).key for one in (*singles, *averages)}


def predictions_of(member: JobMember, protocol: TestProtocol) -> Predictions:
    """Predictions of two images by a member, as its evaluation would describe them."""
    recipe = member.recipe
    return Predictions(
        keys=("a", "b"),
        labels=np.array([0, 1]),
        probabilities=np.full((2, 2), 0.5, np.float16),
        ranks=np.zeros(2, np.int32),
        guesses=np.zeros((2, 2), np.int32),
        classes=(ImageClass(0, "zero"), ImageClass(1, "one")),
        metadata=PredictionMetadata(
            network=recipe.network.name,
            training_data=recipe.data.name,
            training_digest="1a2b",
            data=recipe.data.name,
            data_digest="1a2b",
            split=recipe.data.test_split,
            protocol=protocol.name(recipe.input.size),
            weights_digest=member.run,
            run=member.run,
        ),
    )


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_each_example_in_the_docs_is_what_its_command_renders(path: Path, render: Render) -> None:
    text = path.read_text(encoding="utf-8")
    (command,) = [line[2:] for line in text.splitlines()[:2] if line.startswith("# ilsvrc submit")]
    assert render(shlex.split(command)) == text, f"`make jobs` renders it again: {command}"
