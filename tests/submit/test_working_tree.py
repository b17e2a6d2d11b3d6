"""Which files are sent with a job."""

import os
import zipfile
from pathlib import Path

import pytest

from pipeline.config.cluster import Cluster, load_cluster
from pipeline.runtime.errors import UserError
from pipeline.submit import working_tree
from pipeline.submit.working_tree import PROJECT, pack, within_tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "pipeline/cli.py", "pipeline/data/store.py", "pipeline/__pycache__/cli.pyc",
        "configs/recipes/mine.yaml", ".git/HEAD", ".venv/bin/python", "data/digits/train.tar",
        "runs/mine/weights.safetensors", "mlflow.db", "mlflow.db-wal", "ilsvrc.egg-info/PKG-INFO",
        "store/train.tar", "kept/digits/train.images", "pyproject.toml",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def cluster_of(tree: Path) -> Cluster:
    cache = f"cache={{folder: {tree / 'kept'}, gigabytes: 1}}"
    return load_cluster("laptop", [f"data_dir={tree / 'store'}", cache])


def test_only_code_and_configurations_are_packed(tree: Path) -> None:
    target = tree.parent / "tree.zip"
    pack(tree, cluster_of(tree), target, 1e6)
    with zipfile.ZipFile(target) as package:
        assert package.namelist() == [
            "pyproject.toml", "configs/recipes/mine.yaml", "pipeline/cli.py",
            "pipeline/data/store.py",
        ]  # fmt: skip
        assert package.read("pipeline/cli.py") == b"pipeline/cli.py"


def test_where_the_package_is_installed_only_it_is_packed(tree: Path) -> None:
    (tree / "pyproject.toml").unlink()
    pack(tree, cluster_of(tree), tree.parent / "tree.zip", 1e6)
    with zipfile.ZipFile(tree.parent / "tree.zip") as package:
        assert package.namelist() == ["pipeline/cli.py", "pipeline/data/store.py"]


def test_the_same_tree_gives_the_same_package(tree: Path) -> None:
    first, second = tree.parent / "first.zip", tree.parent / "second.zip"
    pack(tree, cluster_of(tree), first, 1e6)
    os.utime(tree / "pipeline/cli.py", (0, 0))
    pack(tree, cluster_of(tree), second, 1e6)
    assert first.read_bytes() == second.read_bytes()


def test_a_tree_over_the_limit_names_its_largest_file(tree: Path) -> None:
    (tree / "weights.pt").write_bytes(os.urandom(3_000_000))
    with pytest.raises(UserError, match=r"more than 2 MB.*weights\.pt with 3 MB.*upload_megabytes"):
        pack(tree, cluster_of(tree), tree.parent / "tree.zip", 2e6)


def test_the_project_itself_packs_into_five_megabytes(tmp_path: Path) -> None:
    pack(PROJECT, load_cluster("laptop"), tmp_path / "tree.zip", 5e6)
    with zipfile.ZipFile(tmp_path / "tree.zip") as package:
        assert {"pipeline/__main__.py", "configs/recipes/smoke.yaml"} <= set(package.namelist())


def test_a_document_outside_of_the_tree_is_refused(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working_tree, "PROJECT", tree)
    assert within_tree(tree / "configs/recipes/mine.yaml", "mine") == "mine"
    assert within_tree(tree / "mine.yaml", "../mine.yaml") == "mine.yaml"
    with pytest.raises(UserError, match=r"lies outside of .*put it into .*configs"):
        within_tree(tree.parent / "mine.yaml", "mine.yaml")
    (tree / "pyproject.toml").unlink()
    with pytest.raises(UserError, match=r"lies outside of .*submit from a clone"):
        within_tree(tree.parent / "mine.yaml", "mine.yaml")
