"""Which evaluations are done before workers would have started."""

from pathlib import Path

import pytest

from pipeline.config.cluster import load_cluster
from pipeline.config.protocol import parse_protocol
from pipeline.config.recipe import load_recipe
from pipeline.data.store.store import Store
from pipeline.planning.evaluation_cost import is_soonest_alone
from pipeline.runs.evaluated_model import EvaluatedModel, model_of_recipe

WEIGHTS = Path("weights.safetensors")


@pytest.mark.parametrize(
    ("recipe", "cluster", "protocol", "alone"),
    [
        ("smoke", [], None, True),
        ("smoke", ["workers.ray_address=auto"], None, False),
        ("smoke", ["workers.device=gpu"], None, False),
        ("resnet50", [], None, False),  # some 10^12 multiply-adds an image, at most
        ("resnet50", [], "dense", False),
    ],
)
def test_a_small_network_on_few_small_images_is_evaluated_alone(
    data_dir: Path, recipe: str, cluster: list[str], protocol: str | None, alone: bool
) -> None:
    model = model_of_recipe(load_recipe(recipe), WEIGHTS)
    chosen = model.protocol
    if protocol:
        chosen = parse_protocol(protocol, model.input.size, model.protocol, model.trained_sides)
    images = Store.open(data_dir / "digits").split("val")
    assert is_soonest_alone(model, images, chosen, load_cluster("laptop", cluster)) is alone


def test_what_a_foreign_module_takes_is_not_known(data_dir: Path) -> None:
    known = model_of_recipe(load_recipe("smoke"), WEIGHTS)
    foreign = EvaluatedModel("mine", known.input, known.protocol, module="mine:make")
    images = Store.open(data_dir / "digits").split("val")
    assert not is_soonest_alone(foreign, images, known.protocol, load_cluster("laptop"))
