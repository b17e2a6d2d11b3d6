"""Load a trained run for visualization, and store figures in its folder and its MLflow run."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from pipeline.config.cluster import Cluster
from pipeline.data.store.store import Store, store_folder
from pipeline.models.weights_file import read_weights
from pipeline.models.zoo import build_model
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.distributed import device_here
from pipeline.runtime.storage import write_atomically
from pipeline.tracking import mlflow_runs
from pipeline.visualization.pictures import VisualizedModel


def load_trained_model(folder: RunFolder, cluster: Cluster, split: str | None) -> VisualizedModel:
    """Load the final network of a run, and open the split that it is run on.

    `split` defaults to the recipe's test split. Raises `UserError` for a run without final weights,
    and if the cluster's device is a GPU and there is none.
    """
    folder.trained_record()
    recipe = folder.recipe()
    store = Store.open(store_folder(cluster, recipe.data.name), cluster.cache)
    device = device_here(cluster.workers.device)
    model = build_model(recipe.network, recipe.input)
    model.load_state_dict(read_weights(folder.weights))
    return VisualizedModel(
        folder.name,
        folder.last_day(),
        model.to(device).eval(),
        recipe,
        store.split(split or recipe.data.test_split),
        [image_class.name for image_class in store.classes],
        cluster.loading,
        device,
    )


def store_figures(uri: str, run_id: str, figures: Mapping[str, bytes]) -> None:
    """Store figures, by file name, as artifacts of an MLflow run in `pictures`."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in figures]
        for path, content in zip(paths, figures.values(), strict=True):
            path.write_bytes(content)
        mlflow_runs.log_files(uri, run_id, paths, "pictures")


def store_picture(folder: RunFolder, uri: str, name: str, png: bytes) -> Path:
    """Write a PNG file to the run's folder and to its MLflow run, in `pictures`."""
    path = folder.path / "pictures" / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, png)
    record = folder.record()
    if record and mlflow_runs.is_there(uri, record.tracking_run_id):
        mlflow_runs.log_files(uri, record.tracking_run_id, [path], "pictures")
    return path
