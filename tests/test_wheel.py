"""The wheel alone, without the clone: `ilsvrc` finds the recipes and clusters it came with."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


def run(command: list[str], folder: Path, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**clean, "COLUMNS": "100", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed to, without its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    source, site = folder / "source", folder / "site"
    source.mkdir()  # since a build leaves files beside what it builds
    for name in ("pipeline", "configs"):
        caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / name, source / name, symlinks=True, ignore=caches)
    for name in ("pyproject.toml", "README.md", "constraints.txt"):
        shutil.copy(PROJECT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run([*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "."], source)
    (wheel,) = source.glob("*.whl")
    run(
        [*pip, "install", "-q", "--no-deps", "--no-index", "--target", str(site), str(wheel)],
        source,
    )
    return site


def ilsvrc(site: Path, folder: Path, *arguments: str) -> str:
    return run([str(site / "bin" / "ilsvrc"), *arguments], folder, PYTHONPATH=str(site))


def test_the_wheel_has_every_recipe_and_cluster_and_nothing_beside_the_package(site: Path) -> None:
    (wheel,) = (site.parent / "source").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"pipeline/{path.relative_to(PROJECT)}" for path in PROJECT.glob("configs/*/*.yaml")}
    assert len(configs) > 50
    assert configs <= names
    assert "pipeline/constraints.txt" in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"pipeline"}


def test_a_training_is_planned_and_rendered_from_any_folder(site: Path, tmp_path: Path) -> None:
    place = [sys.executable, "-c", "import pipeline; print(pipeline.__file__)"]
    assert run(place, tmp_path, PYTHONPATH=str(site)).startswith(str(site))
    planned = ilsvrc(site, tmp_path, "plan", "resnet50", "--on", "8gpu", "--gpu", "h100")
    assert "resnet50 on" in planned
    rendered = ilsvrc(site, tmp_path, "submit", "resnet50", "--on", "ray", "--dry-run")
    assert "python -m pipeline train resnet50 --on ray" in rendered


def test_a_recipe_of_the_working_folder_comes_first(site: Path, tmp_path: Path) -> None:
    own = tmp_path / "configs" / "recipes" / "resnet50.yaml"
    own.parent.mkdir(parents=True)
    own.write_text((PROJECT / "configs" / "recipes" / "resnet18.yaml").read_text())
    rendered = ilsvrc(site, tmp_path, "submit", "resnet50", "--on", "slurm", "--dry-run")
    assert "train resnet50 --on slurm" in rendered
    code = "from pipeline.config.recipe import load_recipe as f; print(f('resnet50').network.name)"
    found = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(site))
    assert found == "resnet18\n"


@pytest.mark.slow
def test_digits_are_prepared_and_learned_from_any_folder(site: Path, tmp_path: Path) -> None:
    ilsvrc(site, tmp_path, "prepare", "digits")
    printed = ilsvrc(site, tmp_path, "train", "smoke")
    assert "epoch 3/3  val (whole, 899 images)" in printed
