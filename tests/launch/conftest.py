"""Small trainings, each in a folder and an MLflow run of its own."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from jobs import MakeJob
from pipeline.cluster import load_cluster
from pipeline.launch.job import Job
from pipeline.launch.run_folder import RunFolder, RunRecord
from pipeline.recipe import load_recipe
from pipeline.tracking.runs import start_run


@pytest.fixture
def make_job(data_dir: Path, tracking_uri: str, tmp_path: Path) -> MakeJob:
    """A function that makes a job of the recipe `smoke`, on the digits, in a new folder `name`."""

    def make(name: str = "run", recipe: Sequence[str] = (), cluster: Sequence[str] = ()) -> Job:
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        run_id = start_run(tracking_uri, "tests", run_name=name, params={}, tags={})
        folder.write_record(RunRecord(dataset_digest="", tracking_run_id=run_id))
        resolved = load_recipe("smoke", list(recipe))
        folder.write_recipe(resolved)
        return Job(
            resolved,
            load_cluster("laptop", [f"data_dir={data_dir}", *cluster]),
            folder,
            tracking_uri,
        )

    return make
