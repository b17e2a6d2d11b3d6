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
from pipeline.data.loading.plans import sample_batches
from pipeline.data.loading.sampler import BatchSampler
from pipeline.evaluation.evaluate import autocast
from pipeline.evaluation.topk import topk_hits
from pipeline.runtime.distributed import Worker
from pipeline.training.batch_norm import combine_statistics, evenly_weighted
from pipeline.training.levenberg_marquardt import LevenbergMarquardt
from pipeline.training.loss import main_logits, objective, summed_loss
from pipeline.training.mixup import mix_images
from pipeline.training.optimizer import set_learning_rate
from pipeline.training.schedule import PlateauState, Schedule


@dataclass(frozen=True)
class StepResult:
    """What one worker did in one optimizer step.

    `sums` is float64 (4,) on the worker's device: summed loss, top-1 hits, top-5 hits, images.
    `gradient_norm`, float32 (), is the length of the whole gradient, before it is shortened. Both
    stay tensors, because reading them would make the GPU wait.
    """

    epoch: int
    step: int
    learning_rate: float
    sums: Tensor
    gradient_norm: Tensor
    seconds_waiting: float


def train_epoch(
    recipe: Recipe,
    model: nn.Module,
    optimizer: Optimizer,
    schedule: Schedule,
    plateau: PlateauState,
    batches: Iterator[Batch],
    dealing: BatchSampler,
    worker: Worker,
    epoch: int,
    start_step: int = 0,
) -> Iterator[StepResult]:
    """Take the optimizer steps of one epoch from `start_step`, yielding after each.

    Gradients are the mean over the images of the whole global batch: every micro-batch counts by
    its images, DDP's mean over workers is undone by the world size.
    """
    model.train()
    if start_step == 0 and isinstance(optimizer, LevenbergMarquardt):
        samples = sample_batches(recipe, dealing, worker.rank)
        optimizer.estimate(recipe.loss, islice(batches, len(samples)), worker)
    micro_batches = dealing.share(worker.rank)
    for step in range(start_step, dealing.num_steps):
        rate = recipe.optimizer.learning_rate * schedule.factor(
            epoch + step / dealing.num_steps, plateau
        )
        set_learning_rate(optimizer, rate)
        share = worker.world_size / dealing.batch_size(step)
        sums = torch.zeros(4, dtype=torch.float64, device=worker.device)
        waiting = 0.0
        for micro_batch in micro_batches:
            started = time.perf_counter()
            batch = next(batches)
            waiting += time.perf_counter() - started
            _seed_dropout(worker.device, recipe.seed, epoch, step, micro_batch)
            with (
                _synchronized(model, is_last=micro_batch == micro_batches[-1]),
                evenly_weighted(model, micro_batches.index(micro_batch), len(micro_batches)),
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
        combine_statistics(model, len(micro_batches) / dealing.num_micro_batches, worker)
        yield StepResult(epoch, step, rate, sums, norm, waiting)


def _synchronized(model: nn.Module, is_last: bool) -> AbstractContextManager[object]:
    # Gradients travel once a step, with the last micro-batch.
    if isinstance(model, DistributedDataParallel) and not is_last:
        return model.no_sync()
    return nullcontext()


def _seed_dropout(device: torch.device, seed: int, epoch: int, step: int, micro_batch: int) -> None:
    # A pure function of the position: resuming needs no generator state, and the same micro-batch
    # drops the same units on any worker.
    mixed = seed
    for part in (epoch, step, micro_batch):
        mixed = (mixed * 6364136223846793005 + part + 1442695040888963407) % 2**63
    # Not `torch.manual_seed`, which takes milliseconds where CUDA is there but not started.
    torch.default_generator.manual_seed(mixed)
    if device.type == "cuda":
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(mixed)


@torch.no_grad()
def _sums(recipe: Recipe, logits: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
    # Of mixed images the label is that of the first; mixing leaves the order of labels alone.
    loss = summed_loss(recipe.loss, logits, targets).reshape(1)
    images = torch.full_like(loss, len(labels))
    return torch.cat([loss.double(), topk_hits(logits, labels).double(), images])
