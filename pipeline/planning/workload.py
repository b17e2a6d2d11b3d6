"""What a recipe needs on any machine: operations, bytes, images."""

from dataclasses import dataclass

import torch

from pipeline.config.cluster import Cluster
from pipeline.config.recipe import Recipe
from pipeline.data.loading.views import training_size
from pipeline.data.store.store import Store, store_folder
from pipeline.models.activation_memory import activation_bytes
from pipeline.models.classifier import ImageClassifier
from pipeline.models.freezing import freeze_until
from pipeline.models.profile import profile_model
from pipeline.models.zoo import build_model
from pipeline.planning.hardware import DataFacts, Hardware
from pipeline.runtime.errors import UserError


@dataclass(frozen=True)
class Workload:
    """What one training needs, whatever runs it.

    `multiply_adds` (forward, without auxiliary classifiers) and `activation_bytes` (kept for the
    backward pass, in the recipe's precision) are of one image at full size; `mean_area` is the mean
    area of a training image under `resizing`, relative to full size. `parameters` are trained ones,
    `layers` are modules that start kernels of their own.
    """

    recipe: Recipe
    parameters: int
    layers: int
    multiply_adds: int
    activation_bytes: float
    checkpoint_bytes: int
    state_bytes: float
    mean_area: float
    data: DataFacts

    @property
    def gradient_bytes(self) -> int:
        return 4 * self.parameters  # DDP sends float32


def measure_workload(recipe: Recipe, data: DataFacts) -> Workload:
    """Return what `recipe` needs; the network is built on the meta device, without memory."""
    model = meta_model(recipe)
    profile = profile_model(model, _input_shape(recipe))
    return Workload(
        recipe=recipe,
        parameters=_num_trained(model),
        layers=len(profile.layers),
        multiply_adds=profile.multiply_adds,
        activation_bytes=_activation_bytes(recipe, model),
        checkpoint_bytes=_size(model) * _copies_in_checkpoint(recipe),
        state_bytes=_state_bytes(recipe, model),
        mean_area=_mean_area(recipe),
        data=data,
    )


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of a worker: `state`, and the activations of each `micro_batch` that a pass holds."""

    state: float
    micro_batch: float


def training_memory(recipe: Recipe) -> TrainingMemory:
    """Return what a worker needs; the network is built on the meta device."""
    model = meta_model(recipe)
    activations = recipe.batch.micro_batch_size * _activation_bytes(recipe, model)
    return TrainingMemory(_state_bytes(recipe, model), activations)


def training_bytes(recipe: Recipe, num_micro_batches: int = 1) -> float:
    """Return the memory that a worker needs for a pass of so many micro-batches."""
    memory = training_memory(recipe)
    return memory.state + num_micro_batches * memory.micro_batch


def meta_model(recipe: Recipe) -> ImageClassifier:
    """Build the recipe's network, its layers frozen, on the meta device, without memory."""
    with torch.device("meta"):
        model = build_model(recipe.network, recipe.input)
    if recipe.freeze_until:
        freeze_until(model, recipe.freeze_until)
    return model


def checkpoint_bytes(recipe: Recipe) -> int:
    """Return the size of a checkpoint: weights, the optimizer's state, any average."""
    return weight_bytes(recipe) * _copies_in_checkpoint(recipe)


def weight_bytes(recipe: Recipe) -> int:
    """Return the size of the final weights."""
    return _size(meta_model(recipe))


def data_facts(recipe: Recipe, cluster: Cluster, hardware: Hardware) -> DataFacts:
    """Return the facts of the recipe's data set, as it is packed, or as `hardware.yaml` has them.

    Raises `UserError` for one that is neither packed nor known.
    """
    name, folder = recipe.data.name, store_folder(cluster, recipe.data.name)
    try:
        store = Store.open(folder)
    except UserError:
        if name in hardware.data:
            return hardware.data[name]
        raise
    train, test = store.split(recipe.data.train_split), store.split(recipe.data.test_split)
    size = sum(shard.size for shard in store.split_manifest(recipe.data.train_split).shards)
    return DataFacts(
        train=len(train), val=len(test), bytes=max(1, size // len(train)), source=str(folder)
    )


def _input_shape(recipe: Recipe) -> tuple[int, ...]:
    sizes = (recipe.input.size,) * recipe.input.dimensions
    return (recipe.input.num_channels, *sizes)


def _activation_bytes(recipe: Recipe, model: ImageClassifier) -> float:
    kept = activation_bytes(model, _input_shape(recipe))
    return kept / (2 if recipe.precision == "bfloat16" else 1)


def _state_bytes(recipe: Recipe, model: ImageClassifier) -> float:
    trained = _num_trained(model)
    frozen = sum(value.numel() for value in model.parameters()) - trained
    copies_of_frozen = 1 + (recipe.averaging is not None)
    return 4 * (trained * _copies_while_training(recipe) + frozen * copies_of_frozen)


def _num_trained(model: ImageClassifier) -> int:
    return sum(value.numel() for value in model.parameters() if value.requires_grad)


def _size(model: ImageClassifier) -> int:
    return sum(value.numel() * value.element_size() for value in model.state_dict().values())


def _mean_area(recipe: Recipe) -> float:
    """Return the mean area of a training image, relative to full size."""
    full, resizing = recipe.input.size, recipe.resizing
    growing = min(recipe.epochs, resizing.full_size_from) if resizing else 0
    areas = [(training_size(full, resizing, epoch) / full) ** 2 for epoch in range(growing)]
    return (sum(areas) + recipe.epochs - growing) / recipe.epochs


def _copies_in_checkpoint(recipe: Recipe) -> int:
    return 2 + (recipe.optimizer.kind == "rmsprop") + (recipe.averaging is not None)


def _copies_while_training(recipe: Recipe) -> float:
    # What a checkpoint holds, gradients, DDP's buckets of them, and autocast's 2-byte weights.
    return _copies_in_checkpoint(recipe) + 2 + 0.5 * (recipe.precision == "bfloat16")
