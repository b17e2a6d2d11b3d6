"""The training loop. It knows batches, a network, an optimizer, and no vendor."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from pipeline.config.recipe import Recipe
from pipeline.data.loading.loader import Batch
from pipeline.data.loading.sampler import BatchSampler
from pipeline.evaluation.metric_sums import MetricSums
from pipeline.runtime.distributed import Worker
from pipeline.runtime.precision import autocast
from pipeline.training.grouped_forward import GroupedForward
from pipeline.training.groups import even_parts
from pipeline.training.loss import main_logits, objective, summed_loss
from pipeline.training.mixup import mix_groups
from pipeline.training.optimizer import SampledOptimizer, set_learning_rate
from pipeline.training.schedule import Schedule
from pipeline.training.train_state import Progress


@dataclass(frozen=True)
class StepResult:
    """What one worker did in one optimizer step.

    `sums`, float64 (), are over the worker's images of the step. `gradient_norm`, float32 (), is
    that of the whole gradient, before it is clipped. Both stay on the worker's device, because
    reading them would make the GPU wait.
    """

    epoch: int
    step: int
    learning_rate: float
    sums: MetricSums
    gradient_norm: Tensor
    seconds_waiting: float


def train_epoch(
    recipe: Recipe,
    model: nn.Module,
    optimizer: Optimizer,
    batches: Iterator[Batch],
    sampler: BatchSampler,
    worker: Worker,
    progress: Progress,
) -> Iterator[StepResult]:
    """Take the optimizer steps that are left of the epoch of `progress`, yielding after each.

    `model` is a `GroupedForward`, maybe in DDP. `batches` are this worker's of `training_plan`.
    Gradients are the mean over the images of the whole global batch: every micro-batch counts by
    its images, and DDP's mean over workers is undone by the world size.
    """
    model.train()
    network = model.module if isinstance(model, DistributedDataParallel) else model
    assert isinstance(network, GroupedForward)
    if progress.step == 0 and isinstance(optimizer, SampledOptimizer):
        samples = sampler.sample_batches(recipe.optimizer.num_samples, worker.rank)
        optimizer.observe_samples(recipe.loss, islice(batches, len(samples)), worker)
    schedule = Schedule(recipe.schedule, recipe.epochs)
    num_passes = sampler.num_passes(worker.rank)
    for step in range(progress.step, sampler.num_steps):
        position = progress.epoch + step / sampler.num_steps
        rate = recipe.optimizer.learning_rate * schedule.factor(position, progress.plateau)
        set_learning_rate(optimizer, rate)
        share = worker.world_size / sampler.batch_size(step)
        computed: list[_Computed] = []
        waiting = 0.0
        for number in range(num_passes):
            batch = next(batches)
            waiting += batch.seconds_waiting
            parts = even_parts(batch)
            for part in parts:
                is_last = number + 1 == num_passes and part is parts[-1]
                place = (recipe.seed, progress.epoch, step)
                with (
                    _synchronized(model, is_last=is_last),
                    autocast(recipe.precision, worker.device),
                ):
                    images, targets = mix_groups(
                        recipe.mixing, recipe.network.num_classes, part, place
                    )
                    output = model(images, part.keys, part.num_groups)
                    (objective(recipe.loss, output, targets) * share).backward()
                network.statistics.add_pass()
                # A copy, since a captured network returns the same tensor again.
                logits = main_logits(output).detach().clone()
                computed.append(_Computed(logits, targets, part.labels))
        norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        if recipe.max_gradient_norm is not None:
            clip_grads_with_norm_(model.parameters(), recipe.max_gradient_norm, norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=not network.has_static_gradients)
        network.statistics.update(worker)
        yield StepResult(progress.epoch, step, rate, _sums(recipe, computed), norm, waiting)


@dataclass(frozen=True)
class _Computed:
    """The logits (n, c), targets and labels of a part of a step."""

    logits: Tensor
    targets: Tensor
    labels: Tensor


def _synchronized(model: nn.Module, is_last: bool) -> AbstractContextManager[object]:
    # Gradients travel once a step, with the last pass.
    if isinstance(model, DistributedDataParallel) and not is_last:
        return model.no_sync()
    return nullcontext()


@torch.no_grad()
def _sums(recipe: Recipe, computed: list[_Computed]) -> MetricSums:
    logits = torch.cat([part.logits for part in computed])
    targets = torch.cat([part.targets for part in computed])
    # Of mixed images the label is that of the first; mixing leaves the order of labels alone.
    labels = torch.cat([part.labels for part in computed])
    loss = summed_loss(recipe.loss, logits, targets).double()
    return MetricSums.of(loss, logits, labels, logits.device)
