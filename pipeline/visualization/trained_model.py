"""A trained run opened to be looked at, in this process, and where its pictures go."""

import io
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.config.cluster import Cluster
from pipeline.data.store.store import Store, store_folder
from pipeline.models.weights_file import read_weights
from pipeline.models.zoo import build_model
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.distributed import device_here
from pipeline.runtime.storage import write_atomically
from pipeline.tracking import mlflow_runs
from pipeline.visualization.pictures import NamedImage, VisualizedModel


def load_trained_model(folder: RunFolder, cluster: Cluster, split: str | None) -> VisualizedModel:
    """Load the final network of a run, and open the split that it is to look at.

    `split` defaults to the recipe's test split. Raises `UserError` for a run without final
    weights, and a GPU that isn't there.
    """
    folder.trained_record()
    recipe = folder.recipe()
    store = Store.open(store_folder(cluster, recipe.data.name), cluster.cache)
    device = device_here(cluster.workers.device)
    model = build_model(recipe.network, recipe.input)
    model.load_state_dict(read_weights(folder.weights))
    return VisualizedModel(
        model.to(device).eval(),
        recipe,
        store.split(split or recipe.data.test_split),
        [image_class.name for image_class in store.classes],
        cluster.loading,
        device,
    )


def keep_figures(uri: str, run_id: str, figures: Mapping[str, bytes]) -> None:
    """Store figures, by file name, with an MLflow run, in `pictures`."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in figures]
        for path, content in zip(paths, figures.values(), strict=True):
            path.write_bytes(content)
        mlflow_runs.log_files(uri, run_id, paths, "pictures")


def keep_pictures(folder: RunFolder, uri: str, sheets: Iterable[NamedImage]) -> list[Path]:
    """Write sheets as PNGs to the run's folder and to its MLflow run, in `pictures`."""
    place = folder.path / "pictures"
    place.mkdir(exist_ok=True)
    paths = []
    for sheet in sheets:
        encoded = io.BytesIO()
        sheet.picture.save(encoded, "PNG", optimize=True)
        paths.append(place / f"{sheet.name}.png")
        write_atomically(paths[-1], encoded.getvalue())
    record = folder.record()
    if record and mlflow_runs.is_there(uri, record.tracking_run_id):
        mlflow_runs.log_files(uri, record.tracking_run_id, paths, "pictures")
    return paths
