"""Runs without a training: folders with recipe, record and weights, as a training leaves them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save

from pipeline.config.cluster import LoadingConfig
from pipeline.config.recipe import Recipe, load_recipe
from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.store import Store
from pipeline.models.zoo import build_model
from pipeline.runs.run_folder import RunFolder, RunRecord
from pipeline.visualization.pictures import VisualizedModel

CLASSES = (
    ImageClass(0, "n03877845", "palace"),
    ImageClass(1, "n11939491", "daisy"),
    ImageClass(2, "something else"),
)


def small_recipe(name: str = "resnet18", *more: str) -> Recipe:
    """Return a recipe of photographs of 64 pixels and the three `CLASSES`, in float32."""
    small = ["input.size=64", "evaluation={kind: center, resize: 72}", "precision=float32"]
    return load_recipe(name, ["network.num_classes=3", *small, *more])


def trained_run(path: Path, recipe: Recipe, classes: Sequence[ImageClass] = CLASSES) -> RunFolder:
    """Make the folder of a run whose weights are the initial ones, but whose guesses are unsure."""
    torch.manual_seed(0)
    model = build_model(recipe.network, recipe.input)
    weights = model.state_dict()
    *_, last_weight, _ = (value for value in weights.values() if value.is_floating_point())
    last_weight.mul_(0.01)
    folder = RunFolder(path)
    path.mkdir(parents=True)
    folder.write_recipe(recipe)
    record = RunRecord(dataset_digest="", tracking_run_id="", classes=tuple(classes))
    folder.write_record(record)
    folder.write_weights(save(weights))
    return folder


def visualized_start(recipe: Recipe, data_dir: Path) -> VisualizedModel:
    """Return the network at the start of a training, to be seen on its data."""
    torch.manual_seed(0)
    model = build_model(recipe.network, recipe.input).eval()
    store = Store.open(data_dir / recipe.data.name)
    names = [image_class.name for image_class in store.classes]
    split, loading = store.split(recipe.data.test_split), LoadingConfig(backend="reference")
    device = torch.device("cpu")
    return VisualizedModel("mine", "2026-11-29", model, recipe, split, names, loading, device)
