"""Several micro-batches at once give what they give one after another, for every network."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from pipeline.config.recipe import BatchConfig, Recipe, load_recipe
from pipeline.data.loading.loader import Batch
from pipeline.data.loading.philox import image_keys
from pipeline.data.loading.sampler import BatchSampler
from pipeline.models.batch_norm import BatchNorm2d
from pipeline.models.classifier import ImageClassifier
from pipeline.models.dropout import Dropout
from pipeline.models.zoo import NETWORKS, build_model
from pipeline.runtime.distributed import Worker
from pipeline.training.grouped_forward import GroupedForward, WholePass
from pipeline.training.loop import train_epoch
from pipeline.training.train_state import Progress, build_train_state

CPU = torch.device("cpu")
ALONE = Worker(0, 1, CPU)
ONE_STEP = 7  # micro-batches of 2, 2, 2 and 1 images
TWO_STEPS = 15  # the same after a step of four micro-batches of 2


def every_network(fast: list[str]) -> pytest.MarkDecorator:
    """Walk the zoo; all but some networks, of the same blocks or costly, are slow."""
    return pytest.mark.parametrize(
        "network",
        [
            pytest.param(name, marks=[] if name in fast else pytest.mark.slow)
            for name in NETWORKS
            if not name.startswith("mnist1d")
        ],
    )


@dataclass(frozen=True)
class Trained:
    """A network after an epoch, and the losses of its steps."""

    model: ImageClassifier
    losses: list[float]

    def state(self) -> dict[str, torch.Tensor]:
        return self.model.state_dict()


def recipe_of(network: str, *more: str) -> Recipe:
    num_channels = NETWORKS[network](2).input_shape.num_channels if "lenet" in network else 3
    base = "lenet5_mnist" if num_channels == 1 else "resnet18"
    base = "inception_v3" if network.startswith("inception") else base
    recipe = load_recipe(
        base,
        [
            f"network={{name: {network}, num_classes: 6}}",
            "optimizer={kind: sgd, learning_rate: 0.01, momentum: 0.9, weight_decay: 1e-4}",
            "schedule={kind: constant}",
            "loss={kind: cross-entropy}",
            "precision=float32",
            *more,
        ],
    )
    # Inception-v3's auxiliary classifier has one value an image to normalize: one image is too few.
    micro_batch_size = 4 if network.startswith("inception") else 2
    batch = BatchConfig(global_batch_size=8, micro_batch_size=micro_batch_size)
    return recipe.model_copy(update={"batch": batch})


def train(
    recipe: Recipe,
    *,
    at_once: int,
    num_images: int = ONE_STEP,
    engine: str = "eager",
) -> Trained:
    """Train an epoch on noise, `at_once` micro-batches at once; what compiles is aot_eager."""
    torch.manual_seed(0)
    model = build_model(recipe.network, recipe.input).double()
    shape = model.input_shape
    size = shape.max_size or max(shape.min_size, 64)
    images = torch.randn(num_images, shape.num_channels, size, size, dtype=torch.float64)
    labels = torch.arange(num_images) % recipe.network.num_classes
    sampler = BatchSampler.of(recipe.batch, num_images, 1, at_once)
    state = build_train_state(recipe, model)
    whole = WholePass((sampler.max_pass_size, *images.shape[1:]), min(at_once, 4))
    forward = GroupedForward(model, whole, engine=engine, backend="aot_eager")

    def batches() -> Iterator[Batch]:
        for step in range(sampler.num_steps):
            for each in sampler.passes(np.arange(num_images), step, 0):
                rows = torch.from_numpy(each.images)
                keys = torch.from_numpy(image_keys(recipe.seed, 0, each.images))
                numbers = torch.from_numpy(each.micro_batches)
                yield Batch(images[rows], labels[rows], rows, keys, numbers)

    steps = train_epoch(recipe, forward, state.optimizer, batches(), sampler, ALONE, Progress())
    return Trained(model, [float(step.sums.loss) for step in steps])


def assert_same(one: Trained, other: Trained, tolerance: float) -> None:
    assert one.losses == pytest.approx(other.losses, rel=tolerance)
    for (name, value), same in zip(one.state().items(), other.state().values(), strict=True):
        difference = (value - same).abs().max()
        assert difference <= tolerance, f"{name} differs by {difference:.1e}"


@every_network(fast=["resnet18", "densenet121"])
def test_micro_batches_at_once_train_as_one_after_another(network: str) -> None:
    recipe = recipe_of(network)
    singly = train(recipe, at_once=1)
    for at_once in (3, 4):
        assert_same(train(recipe, at_once=at_once), singly, 1e-10)


def test_each_micro_batch_is_mixed_alone() -> None:
    recipe = recipe_of("resnet18", "mixing={mixup_alpha: 0.4, cutmix_alpha: 1.0}")
    assert_same(train(recipe, at_once=4), train(recipe, at_once=1), 1e-10)


def test_densenet_that_computes_activations_again_writes_its_statistics_once() -> None:
    plain, again = (
        recipe_of("densenet121", f"network.recompute={value}") for value in ("false", "true")
    )
    assert_same(train(again, at_once=2), train(plain, at_once=1), 1e-10)


@every_network(fast=["resnet18"])
def test_a_compiled_network_trains_as_the_eager_one_and_compiles_once(network: str) -> None:
    recipe = recipe_of(network)
    counters.clear()
    torch._dynamo.reset()
    compiled = train(recipe, at_once=2, num_images=TWO_STEPS, engine="compile")
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert not counters["recompile_limit"]
    eager = train(recipe, at_once=2, num_images=TWO_STEPS)
    assert compiled.losses == pytest.approx(eager.losses, rel=1e-9)
    # The weights after one step: a second one of ResNet-101 makes 2e-12 of rounding 8e-8, as it
    # makes 1e-11 of the 4e-16 between two eager forms.
    assert_same(train(recipe, at_once=2, engine="compile"), train(recipe, at_once=2), 1e-9)


@pytest.mark.parametrize("engine", ["eager", "compile"])
def test_frozen_layers_stay_as_they_are_on_every_engine(engine: str) -> None:
    recipe = recipe_of(
        "resnet18",
        "freeze_until=conv3_x",
        "optimizer.head_rate=10",
        "optimizer.momentum_form=rate-inside",
    )
    singly = train(recipe, at_once=1, num_images=TWO_STEPS)
    assert_same(train(recipe, at_once=2, num_images=TWO_STEPS, engine=engine), singly, 1e-9)
    torch.manual_seed(0)
    before = build_model(recipe.network, recipe.input).double().state_dict()
    frozen = ("conv1.", "bn1.", "conv2_x.", "conv3_x.")
    for name, value in singly.state().items():
        assert torch.equal(value, before[name]) == name.startswith(frozen), name


def test_a_network_with_torchs_own_layers_is_refused() -> None:
    whole = WholePass((2, 3, 8, 8))
    with pytest.raises(TypeError, match=r"pipeline\.models\.dropout"):
        GroupedForward(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Dropout()), whole)
    with pytest.raises(TypeError, match=r"pipeline\.models\.batch_norm"):
        GroupedForward(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), whole)
    GroupedForward(nn.Sequential(nn.Conv2d(3, 3, 1), BatchNorm2d(3), Dropout()), whole)
