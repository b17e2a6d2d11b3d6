"""Every recipe names a network of the zoo, fits its input, and divides evenly among workers."""

from pathlib import Path

import pytest
import torch

from pipeline.config.recipe import read_recipe
from pipeline.models.zoo import NETWORKS, build_model

RECIPES = sorted((Path(__file__).parents[2] / "configs" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_fits_its_network(path: Path) -> None:
    recipe = read_recipe(path)
    with torch.device("meta"):
        build_model(recipe.network, recipe.input)
    for num_workers in (1, 2) if "--on laptop" in path.read_text() else (1, 2, 4, 8):
        assert recipe.batch.num_micro_batches % num_workers == 0
    if recipe.expect is not None:
        assert recipe.expect.protocol == recipe.evaluation.name(recipe.input.size)
    assert path.read_text().startswith("# ")
    assert f"ilsvrc train {path.stem} --on " in path.read_text()


# Nobody published a training of these: starts to compare, and ResNet-18's third kind of shortcut.
UNPUBLISHED = {"alexnet_std003", "alexnet_bias01", "alexnet_std003_bias01", "resnet18_option_c"}
# The forms of released weights; recipes train the paper's.
RELEASED = {"caffenet", "resnet50_caffe", "resnet101_caffe", "resnet152_caffe", "inception_v3_tf"}


def test_every_published_network_has_a_recipe() -> None:
    trained = {read_recipe(path).network.name for path in RECIPES}
    assert NETWORKS.keys() - trained == UNPUBLISHED | RELEASED
