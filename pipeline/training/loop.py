"""The training loop. It knows batches, a network, an optimizer, and no vendor."""

import time
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
from pipeline.training.batch_norm import average_statistics, equal_weight
from pipeline.training.loss import main_logits, objective, summed_loss
from pipeline.training.mixup import mix_images
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

    `batches` are this worker's of `training_plan`. Gradients are the mean over the images of the
    whole global batch: every micro-batch counts by its images, and DDP's mean over workers is
    undone by the world size.
    """
    model.train()
    if progress.step == 0 and isinstance(optimizer, SampledOptimizer):
        samples = sampler.sample_batches(recipe.optimizer.num_samples, worker.rank)
        optimizer.observe_samples(recipe.loss, islice(batches, len(samples)), worker)
    schedule = Schedule(recipe.schedule, recipe.epochs)
    micro_batches = sampler.share(worker.rank)
    for step in range(progress.step, sampler.num_steps):
        position = progress.epoch + step / sampler.num_steps
        rate = recipe.optimizer.learning_rate * schedule.factor(position, progress.plateau)
        set_learning_rate(optimizer, rate)
        share = worker.world_size / sampler.batch_size(step)
        sums = MetricSums.zeros(torch.float64, worker.device)
        waiting = 0.0
        for index, micro_batch in enumerate(micro_batches):
            started = time.perf_counter()
            batch = next(batches)
            waiting += time.perf_counter() - started
            _seed_generators(worker.device, recipe.seed, progress.epoch, step, micro_batch)
            with (
                _synchronized(model, is_last=index + 1 == len(micro_batches)),
                equal_weight(model, index, len(micro_batches)),
                autocast(recipe.precision, worker.device),
            ):
                images, targets = mix_images(
                    recipe.mixing, recipe.network.num_classes, batch.images, batch.labels
                )
                output = model(images)
                (objective(recipe.loss, output, targets) * share).backward()
            sums += _sums(recipe, main_logits(output), targets, batch.labels)
        norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        if recipe.max_gradient_norm is not None:
            clip_grads_with_norm_(model.parameters(), recipe.max_gradient_norm, norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average_statistics(model, len(micro_batches) / sampler.num_micro_batches, worker)
        yield StepResult(progress.epoch, step, rate, sums, norm, waiting)


def _synchronized(model: nn.Module, is_last: bool) -> AbstractContextManager[object]:
    # Gradients travel once a step, with the last micro-batch.
    if isinstance(model, DistributedDataParallel) and not is_last:
        return model.no_sync()
    return nullcontext()


def _seed_generators(
    device: torch.device, seed: int, epoch: int, step: int, micro_batch: int
) -> None:
    # For dropout and mixing, a pure function of the position: resuming needs no generator state,
    # and the same micro-batch drops the same units on any worker.
    mixed = seed
    for part in (epoch, step, micro_batch):
        mixed = (mixed * 6364136223846793005 + part + 1442695040888963407) % 2**63
    # Not `torch.manual_seed`, which takes milliseconds where CUDA is there but not started.
    torch.default_generator.manual_seed(mixed)
    if device.type == "cuda":
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(mixed)


@torch.no_grad()
def _sums(recipe: Recipe, logits: Tensor, targets: Tensor, labels: Tensor) -> MetricSums:
    # Of mixed images the label is that of the first; mixing leaves the order of labels alone.
    loss = summed_loss(recipe.loss, logits, targets).double()
    return MetricSums.of(loss, logits, labels, logits.device)
