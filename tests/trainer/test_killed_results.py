"""A kill while a training's results are written: the same command writes what it would have."""

import shutil
from functools import partial
from pathlib import Path

import pytest
from faults import KillAt, at_commit, at_file_change, killed_and_repeated
from rich.console import Console

from pipeline.config.cluster import Cluster, load_cluster
from pipeline.config.recipe import load_recipe
from pipeline.evaluation.predictions import kept_predictions, read_predictions
from pipeline.launch.events import Event
from pipeline.launch.ray_train import run_on_workers
from pipeline.launch.training_job import TrainingJob
from pipeline.runs.evaluated_model import model_of_run
from pipeline.runs.run_folder import RunFolder
from pipeline.tracking.mlflow_client import connect
from pipeline.tracking.queries import all_runs
from pipeline.trainer.driver import run_training
from pipeline.trainer.evaluation_run import run_evaluation
from pipeline.trainer.worker import train

RECIPE, QUIET = load_recipe("smoke", ["epochs=1"]), Console(quiet=True)


def cluster_in(folder: Path, data_dir: Path) -> Cluster:
    settings = [
        f"data_dir={data_dir}", f"runs_dir={folder}", "workers.count=0",
        f"tracking.uri=sqlite:///{folder}/mlflow.db",
    ]  # fmt: skip
    return load_cluster("laptop", settings)


@pytest.fixture(scope="module")
def trained(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert run_training(RECIPE, "smoke", cluster_in(folder, data_dir), "run", QUIET)
    return folder


def ignore(event: Event) -> None:
    pass


def copy_into(place: Path, trained: Path, *but: str) -> None:
    """Copy what is in `trained`, but for files of some names, unless it is there."""
    if not (place / "run").exists():
        shutil.copytree(trained, place / "copy", ignore=shutil.ignore_patterns(*but))
        for path in (place / "copy").iterdir():
            path.rename(place / path.name)


def finish(trained: Path, data_dir: Path, place: Path) -> None:
    """Go on from the last checkpoint, without which there is nothing of the results yet."""
    cluster, folder = cluster_in(place, data_dir), RunFolder(place / "run")
    copy_into(place, trained, "predictions", "weights.safetensors")
    run_on_workers(train, TrainingJob(RECIPE, cluster, folder, cluster.tracking.uri), ignore)


def test_a_kill_after_the_last_checkpoint_changes_no_result(
    trained: Path, data_dir: Path, tmp_path: Path
) -> None:
    work = partial(finish, trained, data_dir)
    places = killed_and_repeated(work, tmp_path / "killed", warm_up, at_file_change)
    assert len(places) > 8
    expected = RunFolder(trained / "run")
    (predictions,) = kept_predictions(expected.path)
    for place in places:
        run = RunFolder(place / "run")
        assert run.weights.read_bytes() == expected.weights.read_bytes()
        assert run.trained_record().weights_digest == expected.trained_record().weights_digest
        (kept,) = kept_predictions(run.path)
        assert read_predictions(kept).digest == read_predictions(predictions).digest
        assert names_in(run.path) == names_in(expected.path)


def warm_up(place: Path) -> None:
    """Import what takes seconds, and what computing would import."""
    import nvidia.dali.fn  # noqa: F401
    import torch._dynamo  # noqa: F401

    connect(f"sqlite:///{place}.db")


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def evaluate(trained: Path, data_dir: Path, place: Path) -> None:
    cluster, folder = cluster_in(place, data_dir), RunFolder(place / "run")
    copy_into(place, trained)
    model, data = model_of_run(folder), data_dir / "digits"
    run_evaluation(model, folder, data, "train", RECIPE.evaluation, cluster, QUIET)


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [at_file_change, at_commit])
def test_a_kill_during_an_evaluation_leaves_one_complete_run(
    trained: Path, data_dir: Path, tmp_path: Path, kill_at: KillAt
) -> None:
    work = partial(evaluate, trained, data_dir)
    places = killed_and_repeated(work, tmp_path / "killed", warm_up, kill_at)
    assert len(places) > 3
    digests = set()
    for place in places:
        (file,) = (one for one in kept_predictions(place / "run") if "train" in one.name)
        digests.add(read_predictions(file).digest)
        client = connect(f"sqlite:///{place}/mlflow.db")
        found = all_runs(client, client.get_experiment_by_name("ilsvrc").experiment_id)
        assert [run.info.status for run in found] == ["FINISHED", "FINISHED"]
        assert {run.info.run_name for run in found} == {"run", "run train whole"}
        assert not [name for name in names_in(place / "run") if "part" in name]
    assert len(digests) == 1
