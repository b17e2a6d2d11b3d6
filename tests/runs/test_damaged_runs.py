"""A file of a run's folder that was damaged is refused by all who read it, and made again."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.config.cluster import Cluster, load_cluster
from pipeline.config.recipe import load_recipe
from pipeline.runs.evaluated_model import model_of_run
from pipeline.runs.initial_weights import find_initial_weights
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.errors import UserError
from pipeline.tracking.mlflow_client import connect
from pipeline.tracking.queries import evaluated_runs
from pipeline.trainer.driver import TrainingResult, conclude, run_training
from pipeline.visualization.trained_model import load_trained_model

RECIPE = load_recipe("smoke", ["epochs=2"])


@dataclass(frozen=True)
class Trained:
    folder: RunFolder
    cluster: Cluster

    def train_again(self) -> TrainingResult | None:
        console = Console(quiet=True)
        result = run_training(RECIPE, "smoke", self.cluster, self.folder.name, console)
        if result:
            conclude(result, self.cluster.tracking.uri, [], "the result\n")
        return result


def run_in(folder: Path, data_dir: Path) -> Trained:
    settings = [
        f"data_dir={data_dir}", f"runs_dir={folder}", "workers.count=0",
        "saving.log_every_steps=1", f"tracking.uri=sqlite:///{folder}/mlflow.db",
    ]  # fmt: skip
    return Trained(RunFolder(folder / "run"), load_cluster("laptop", settings))


@pytest.fixture(scope="module")
def original(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    assert run_in(folder, data_dir).train_again()
    return folder


@pytest.fixture
def trained(original: Path, data_dir: Path, tmp_path: Path) -> Trained:
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    return run_in(tmp_path, data_dir)


def flip_a_bit(file: Path, where: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(where * len(content))] ^= 1
    file.write_bytes(content)


def test_damaged_weights_are_read_by_nobody_and_written_again(trained: Trained) -> None:
    folder, cluster = trained.folder, trained.cluster
    before = folder.weights.read_bytes()
    readers: list[Callable[[], object]] = [
        lambda: model_of_run(folder),
        lambda: find_initial_weights(cluster.runs_dir, folder.name, RECIPE),
        lambda: load_trained_model(folder, cluster, None),
    ]
    for read in readers:
        read()
    for where in (0.5, 0.999):
        flip_a_bit(folder.weights, where)
        for read in readers:
            with pytest.raises(UserError, match=r"weights\.safetensors: its bytes have changed"):
                read()
        folder.weights.unlink()
        folder.update_record(is_recorded=False)
        assert trained.train_again()
        assert folder.weights.read_bytes() == before


def test_a_damaged_recipe_is_refused_and_written_again(trained: Trained) -> None:
    folder = trained.folder
    before = folder.recipe_file.read_text()
    assert "size: 32" in before
    folder.recipe_file.write_text(before.replace("size: 32", "size: 30"))
    with pytest.raises(UserError, match=r"recipe\.yaml: has changed since the training wrote it"):
        model_of_run(folder)
    with pytest.raises(UserError, match=r"recipe\.yaml: has changed since the training wrote it"):
        trained.train_again()
    folder.recipe_file.unlink()
    with pytest.raises(UserError, match="was made with another recipe"):
        run_training(
            load_recipe("smoke", ["epochs=3"]), "smoke", trained.cluster, "run", Console(quiet=True)
        )
    folder.update_record(is_recorded=False)
    assert trained.train_again()
    assert folder.recipe_file.read_text() == before


@pytest.mark.parametrize("damage", [lambda text: text[:99], lambda text: "", lambda text: "[]"])
def test_a_damaged_record_is_refused_and_made_again(
    trained: Trained, damage: Callable[[str], str]
) -> None:
    folder = trained.folder
    file, weights = folder.path / "run.json", folder.weights.read_bytes()
    file.write_text(damage(file.read_text()))
    with pytest.raises(UserError, match=r"run\.json: not a run's record; remove it"):
        trained.train_again()
    file.unlink()
    assert trained.train_again()
    assert folder.weights.read_bytes() == weights
    new, old = evaluated_runs(trained.cluster.tracking.uri, trained.cluster.tracking.experiment)
    for run in (new, old):
        assert run.status == "FINISHED"
        history = connect(trained.cluster.tracking.uri).get_metric_history(run.run_id, "train/loss")
        assert [one.step for one in history] == list(range(1, 31))


def test_damaged_metrics_lose_their_own_lines_only(trained: Trained) -> None:
    folder, uri = trained.folder, trained.cluster.tracking.uri
    log = folder.path / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:9], bytes(40), b"\n", *lines[10:-1], lines[-1][:-9]]))
    (run,) = evaluated_runs(uri, trained.cluster.tracking.experiment)
    before = [vars(one) for one in connect(uri).get_metric_history(run.run_id, "train/loss")]
    folder.update_record(is_recorded=False)
    assert trained.train_again()
    after = [vars(one) for one in connect(uri).get_metric_history(run.run_id, "train/loss")]
    assert after == before
