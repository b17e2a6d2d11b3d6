"""A kill at any commit to the tracking store leaves one run, which the same command completes."""

import shutil
from functools import partial
from pathlib import Path

import pytest
from faults import at_commit, killed_and_repeated
from rich.console import Console

from pipeline.config.cluster import load_cluster
from pipeline.config.recipe import load_recipe
from pipeline.data.store.store import Store
from pipeline.runs.run_folder import RunFolder
from pipeline.tracking.mlflow_client import connect
from pipeline.tracking.queries import all_runs
from pipeline.trainer.driver import run_training
from pipeline.trainer.run_registration import RunRegistration


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


def register(empty_store: Path, data_dir: Path, place: Path) -> None:
    uri = f"sqlite:///{place}/mlflow.db"
    if not (place / "run").exists():
        (place / "run").mkdir(parents=True)
        shutil.copy(empty_store, place / "mlflow.db")
    registration = RunRegistration(
        RunFolder(place / "run"),
        load_recipe("smoke"),
        load_cluster("laptop", [f"tracking.uri={uri}", f"runs_dir={place}"]),
        Store.open(data_dir / "digits"),
        None,
        command="ilsvrc train smoke",
        job_name="all",
    )
    registration.prepare()
    registration.make()


def run_it(empty_store: Path, data_dir: Path, place: Path) -> None:
    uri = f"sqlite:///{place}/mlflow.db"
    if not (place / "mlflow.db").exists():
        shutil.copy(empty_store, place / "mlflow.db")
    settings = [
        f"tracking.uri={uri}", f"runs_dir={place}", f"data_dir={data_dir}", "workers.count=0",
    ]  # fmt: skip
    cluster, recipe = load_cluster("laptop", settings), load_recipe("smoke", ["epochs=1"])
    result = run_training(recipe, "smoke", cluster, "run", Console(quiet=True))
    assert result


def test_a_kill_while_the_run_is_registered_leaves_one_complete_run(
    empty_store: Path, data_dir: Path, tmp_path: Path
) -> None:
    work = partial(register, empty_store, data_dir)
    places = killed_and_repeated(work, tmp_path / "killed", work, at_commit)
    seen = set()
    for place in places:
        client = connect(f"sqlite:///{place}/mlflow.db")
        experiment = client.get_experiment_by_name("ilsvrc")
        found = all_runs(client, experiment.experiment_id)
        run, job = sorted(found, key=lambda one: str(one.info.run_name), reverse=True)
        assert (job.info.run_name, run.info.run_name) == ("all", "run")
        assert run.info.run_id == RunFolder(place / "run").tracking_run_id()
        (dataset,) = run.inputs.dataset_inputs
        assert run.data.tags.pop("mlflow.parentRunId") == job.info.run_id
        # What differs from place to place, or when a file is edited meanwhile.
        for name in ("run.key", "git.commit", "git.dirty"):
            run.data.tags.pop(name, None)
        for name in ("cluster.runs_dir", "cluster.tracking.uri"):
            del run.data.params[name]
        seen.add((repr(run.data.params), repr(run.data.tags), dataset.dataset.digest))
    assert len(places) > 10
    assert len(seen) == 1


@pytest.mark.slow
def test_a_kill_at_any_commit_of_a_training_leaves_one_complete_run(
    empty_store: Path, data_dir: Path, tmp_path: Path
) -> None:
    work, warm_up = (partial(one, empty_store, data_dir) for one in (run_it, register))
    places = killed_and_repeated(work, tmp_path / "killed", warm_up, at_commit)
    for place in places:
        client = connect(f"sqlite:///{place}/mlflow.db")
        experiment = client.get_experiment_by_name("ilsvrc")
        (run,) = all_runs(client, experiment.experiment_id)
        assert run.info.status == "FINISHED"
        assert len(run.outputs.model_outputs) == 1
        (model,) = client.search_logged_models([experiment.experiment_id])
        assert model.status == "READY"
        assert len(run.inputs.dataset_inputs) == 1
        steps = [one.step for one in client.get_metric_history(run.info.run_id, "train/loss")]
        assert sorted(steps) == sorted(set(steps))
