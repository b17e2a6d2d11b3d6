"""What several tests share: the real digits packed, real photographs, one Ray."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from small_jobs import MakeJob

from pipeline.config.cluster import load_cluster
from pipeline.config.recipe import load_recipe
from pipeline.data.sources.prepare import prepare_digits
from pipeline.data.store import verified_images
from pipeline.launch.training_job import TrainingJob
from pipeline.runs.run_folder import RunFolder, RunRecord
from pipeline.runtime.ray_session import LOCAL
from pipeline.runtime.ray_session import ray_session as session_of_ray
from pipeline.tracking.mlflow_runs import start_run


@pytest.fixture(scope="session", autouse=True)
def _own_flags(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What this process has compared is remembered for these tests alone."""
    folder = tmp_path_factory.mktemp("verified")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verified_images, "_folder", lambda: folder)
        yield


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packed data sets that holds `digits`. Read-only by agreement."""
    folder = tmp_path_factory.mktemp("data")
    prepare_digits(folder / "digits", lambda done, total: None)
    return folder


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 12 JPEGs each: crops of the two photographs that scikit-learn ships."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir()
        for number in range(12):
            height, width = random.integers(260, 400, 2)
            top = random.integers(0, photo.shape[0] - height)
            left = random.integers(0, photo.shape[1] - width)
            crop = photo[top : top + height, left : left + width]
            Image.fromarray(crop).save(folder / name / f"{number:03d}.jpg", quality=90)
    return folder


@pytest.fixture
def workspace(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own, with the packed digits in `data/`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "data").mkdir()
    shutil.copytree(data_dir / "digits", tmp_path / "data" / "digits")
    return tmp_path


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, or of the test's parameter in KiB, where this machine mounts one."""
    disk, size = tmp_path / "disk", getattr(request, "param", 1024)
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for all the tests that can share it; four CPUs are promised, whatever is there."""
    with session_of_ray(LOCAL, num_cpus=4):
        yield


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sqlite tracking store, made once: MLflow takes seconds to lay a new one out."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db"
    new_run(uri)
    return uri


def new_run(uri: str) -> str:
    return start_run(uri, "tests", run_name="test", params={}, tags={})


@pytest.fixture
def make_job(data_dir: Path, tracking_uri: str, tmp_path: Path) -> MakeJob:
    """A function that makes a job of the recipe `smoke`, on the digits, in a new folder `name`."""

    def make(
        name: str = "run", recipe: Sequence[str] = (), cluster: Sequence[str] = ()
    ) -> TrainingJob:
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        run_id = start_run(tracking_uri, "tests", run_name=name, params={}, tags={})
        folder.write_record(RunRecord(dataset_digest="", tracking_run_id=run_id))
        resolved = load_recipe("smoke", list(recipe))
        folder.write_recipe(resolved)
        return TrainingJob(
            resolved,
            load_cluster("laptop", [f"data_dir={data_dir}", *cluster]),
            folder,
            tracking_uri,
        )

    return make
