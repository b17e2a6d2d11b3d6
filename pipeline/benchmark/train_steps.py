"""The tasks of a benchmark: the loader, the training step, and both, by the code that trains."""

import itertools
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import torch
from torch import nn

from pipeline.benchmark.timing import TimedTask
from pipeline.config.cluster import LoadingConfig
from pipeline.config.recipe import Recipe
from pipeline.data.loading.loader import Batch, Loader, build_loader
from pipeline.data.loading.plans import training_plan
from pipeline.data.loading.sampler import BatchSampler
from pipeline.data.store.store import Split
from pipeline.models.classifier import to_device
from pipeline.models.zoo import build_model
from pipeline.runtime.distributed import Worker
from pipeline.training.grouped_forward import Engine, build_forward
from pipeline.training.loop import StepResult, train_epoch
from pipeline.training.train_state import Progress, TrainState, build_train_state


@dataclass(frozen=True)
class Bench:
    """A recipe on one worker, with sample images in place of its data.

    Each step is one pass and an optimizer step: what one worker does where there are as many
    workers as passes. The split's size is a multiple of the recipe's batch, so that all steps are
    alike.
    """

    recipe: Recipe
    split: Split
    loading: LoadingConfig
    channels_last: bool
    device: torch.device
    engine: Engine = "eager"

    @property
    def sampler(self) -> BatchSampler:
        batch = self.recipe.batch
        return BatchSampler.of(batch, len(self.split), 1, batch.num_micro_batches)


def open_loader(bench: Bench) -> Loader:
    """Build the loader of a training, at its first step."""
    recipe, sampler = bench.recipe, bench.sampler
    return build_loader(
        bench.split,
        training_plan(recipe, bench.split, sampler, 0, 0, 0),
        recipe.input,
        bench.loading,
        bench.device,
        max_batch_size=sampler.max_pass_size,
        fill=recipe.augmentation.appearance.fill,
        channels_last=bench.channels_last,
    )


def loading_only(batches: Iterator[Batch]) -> TimedTask:
    """Load batches and discard them."""
    for batch in batches:
        yield len(batch.labels)


def first_batches(bench: Bench, count: int) -> list[Batch]:
    """Return the first batches of a training, on the worker's device."""
    with closing(open_loader(bench)) as batches:
        # Copies, since the loader frees its own memory.
        return [
            replace(batch, images=batch.images.clone())
            for batch in itertools.islice(batches, count)
        ]


def training_steps(
    bench: Bench, batches: Iterator[Batch], *, without: type[nn.Module] | None = None
) -> TimedTask:
    """Train a network from its first step on `batches`.

    Layers of the type `without` are replaced by identities.
    """
    for result in steps_of(bench, initial_train_state(bench, without), batches):
        yield bench.sampler.batch_size(result.step)


def initial_train_state(bench: Bench, without: type[nn.Module] | None = None) -> TrainState:
    """Build the network and optimizer of a training before its first step."""
    torch.manual_seed(bench.recipe.seed)
    model = build_model(bench.recipe.network, bench.recipe.input)
    for name, layer in list(model.named_modules()):
        if without and isinstance(layer, without):
            model.set_submodule(name, nn.Identity())
    model = to_device(model, bench.device, channels_last=bench.channels_last)
    return build_train_state(bench.recipe, model)


def steps_of(bench: Bench, state: TrainState, batches: Iterator[Batch]) -> Iterator[StepResult]:
    """Take the training's steps on `batches`."""
    recipe, sampler = bench.recipe, bench.sampler
    worker = Worker(0, 1, bench.device)
    forward = build_forward(recipe, state.model, sampler, worker, bench.engine)
    for epoch in range(recipe.epochs):
        yield from train_epoch(
            recipe, forward, state.optimizer, batches, sampler, worker, Progress(epoch)
        )
