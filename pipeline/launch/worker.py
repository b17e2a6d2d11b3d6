"""One worker of a job: builds every part from the recipe, runs the epochs."""

import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from pipeline.cluster import Cluster
from pipeline.data.loaders import Loader, build_loader, training_plan
from pipeline.data.order import Dealing
from pipeline.data.stage import stage
from pipeline.data.store import Store, store_folder
from pipeline.data.views import fill_of
from pipeline.distributed import Worker, average_buffers, same_on_all_workers
from pipeline.errors import InterruptedByUserError
from pipeline.evaluation.evaluate import Setting, evaluate
from pipeline.evaluation.metrics import Counts
from pipeline.launch.events import Note, Report
from pipeline.launch.meter import Meter
from pipeline.launch.run_folder import RunFolder
from pipeline.launch.stopping import StopVote
from pipeline.launch.watchdog import Watchdog
from pipeline.models.classifier import ImageClassifier
from pipeline.models.weights_file import read_weights
from pipeline.models.zoo import build_model
from pipeline.recipe import Recipe
from pipeline.storage import write_whole
from pipeline.tracking.tracker import SilentTracker, build_tracker
from pipeline.training.averaging import build_average
from pipeline.training.checkpoint import (
    TrainingState,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from pipeline.training.flat_loss import LossWatch
from pipeline.training.loop import train_epoch
from pipeline.training.optimizer import build_optimizer
from pipeline.training.schedule import PlateauState, Schedule


@dataclass(frozen=True)
class Job:
    """What every worker is told: what to train, where, in which run, from which weights."""

    recipe: Recipe
    cluster: Cluster
    folder: RunFolder
    tracking_uri: str
    tracking_run_id: str
    start: Path | None = None

    def store(self) -> Store:
        """Open the data set, on this node's own disk where the cluster has it staged."""
        folder, stage_to = store_folder(self.cluster, self.recipe.data.name), self.cluster.stage_to
        return stage(folder, stage_to) if stage_to else Store.open(folder, self.cluster.cache)

    def dealing(self, worker: Worker) -> Dealing:
        batch = self.recipe.batch
        return Dealing(
            num_images=len(self.store().split(self.recipe.data.train_split)),
            global_batch_size=batch.global_batch_size,
            num_micro_batches=batch.num_micro_batches,
            world_size=worker.world_size,
        )


@dataclass(frozen=True)
class Position:
    """How far a training is: after `step` steps of `epoch`, and what the schedule remembers."""

    epoch: int
    step: int
    plateau: PlateauState


def train(job: Job, worker: Worker, report: Report) -> Counts:
    """Train from wherever the run's folder says, to the end; return the last evaluation.

    A collective call: every worker of the job makes it, and all return the same counts, or raise
    `InterruptedByUserError` at the same step, once that is saved.
    """
    recipe = job.recipe
    model = make_model(job, worker)
    if job.start:
        model.start_from(read_weights(job.start))
    optimizer = build_optimizer(recipe.optimizer, model)
    average = build_average(recipe.averaging, model)
    position = restore(job, model, average, optimizer, worker, report)
    with (
        closing(open_tracker(job, worker, report)) as tracker,
        watching(job, worker, report) as watchdog,
    ):
        meter = Meter(recipe, job.dealing(worker).num_steps, worker, report, tracker)
        final = average.module if average else model
        counts = _epochs(job, model, average, optimizer, position, worker, meter, watchdog)
        if counts is None:  # stopped between the last checkpoint and the weights
            counts = test(job, final, worker, watchdog)
            meter.report_evaluation(recipe.epochs, counts)
    if worker.is_first:
        save_weights(final, job.folder)
    return counts


def _epochs(
    job: Job,
    model: ImageClassifier,
    average: AveragedModel | None,
    optimizer: Optimizer,
    position: Position,
    worker: Worker,
    meter: Meter,
    watchdog: Watchdog,
) -> Counts | None:
    """Train from `position` to the end; return the last evaluation, if there is anything to do."""
    recipe, saving, dealing = job.recipe, job.cluster.saving, job.dealing(worker)
    schedule = Schedule(recipe.schedule, recipe.epochs)
    watch = LossWatch(recipe, model.when_flat)
    parallel = in_parallel(model, worker)
    final = average.module if average else model
    counts = None
    stop = StopVote(job.folder.stop_request, worker)
    with closing(training_batches(job, dealing, position, worker)) as batches:
        for epoch in range(position.epoch, recipe.epochs):
            for outcome in train_epoch(
                recipe, parallel, optimizer, schedule, position.plateau,
                watchdog.counted(batches), dealing, worker, epoch, position.step,
            ):  # fmt: skip
                meter.add(outcome)
                if average:
                    average.update_parameters(model)
                done, stops = outcome.step + 1, stop.is_agreed()
                every, is_last = saving.checkpoint_every_steps, done == dealing.num_steps
                saves = stops or (every and done % every == 0 and not is_last)
                # What is saved has had its loss looked at.
                if done % saving.log_every_steps == 0 or is_last or saves:
                    watch.observe(epoch * dealing.num_steps + done, meter.report_steps().loss)
                if saves:
                    position = Position(epoch, done, position.plateau)
                    save(job, model, average, optimizer, position, worker)
                if stops:
                    stop.end()
                    raise InterruptedByUserError(
                        f"stopped as asked, after {epoch} epochs and {done} steps; the same "
                        "command goes on from there"
                    )
            average_buffers(final, worker)
            counts = test(job, final, worker, watchdog)
            meter.report_evaluation(epoch + 1, counts)
            position = Position(epoch + 1, 0, schedule.observe(position.plateau, counts.top1_error))
            save(job, model, average, optimizer, position, worker)
    stop.end()
    return counts


def evaluate_run(job: Job, worker: Worker, report: Report) -> Counts:
    """Evaluate the final weights of a run on the test split of its recipe. A collective call."""
    model = make_model(job, worker)
    model.load_state_dict(load_file(job.folder.weights, device=str(worker.device)))
    with watching(job, worker, report) as watchdog:
        counts = test(job, model, worker, watchdog)
    # The number of steps does not depend on the workers, which here need not divide a batch.
    num_steps = job.dealing(replace(worker, world_size=1)).num_steps
    with closing(open_tracker(job, worker, report)) as tracker:
        meter = Meter(job.recipe, num_steps, worker, report, tracker)
        meter.report_evaluation(job.recipe.epochs, counts)
    return counts


def make_model(job: Job, worker: Worker) -> ImageClassifier:
    """Build the recipe's network with its seed's initial weights, on the worker's device."""
    torch.manual_seed(job.recipe.seed)
    model = build_model(job.recipe.network, job.recipe.input)
    channels_last = job.cluster.channels_last
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return model.to(worker.device, memory_format=layout)  # type: ignore[call-overload]


def in_parallel(model: nn.Module, worker: Worker) -> nn.Module:
    """Have the gradients of `model` averaged over the workers."""
    if worker.world_size == 1:
        return model
    devices = [worker.device] if worker.device.type == "cuda" else None
    # Buffers are averaged where they are read (evaluation, checkpoints), not sent at each step.
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def training_batches(job: Job, dealing: Dealing, position: Position, worker: Worker) -> Loader:
    """Load this worker's micro-batches from `position` to the end of the training."""
    recipe = job.recipe
    images = job.store().split(recipe.data.train_split)
    return build_loader(
        images,
        training_plan(recipe, images, dealing, worker.rank, position.epoch, position.step),
        recipe.input,
        job.cluster.loading,
        worker.device,
        max_batch_size=dealing.max_micro_batch_size,
        fill=fill_of(recipe.augmentation),
        channels_last=job.cluster.channels_last,
    )


def test(job: Job, model: nn.Module, worker: Worker, watchdog: Watchdog) -> Counts:
    """Evaluate `model` on the whole test split by the recipe's protocol. A collective call."""
    recipe, cluster = job.recipe, job.cluster
    setting = Setting(
        split=job.store().split(recipe.data.test_split),
        protocol=recipe.evaluation,
        input=recipe.input,
        precision=recipe.precision,
        loading=cluster.loading,
        channels_last=cluster.channels_last,
    )
    return evaluate(model, setting, worker, watchdog.counted)


@contextmanager
def watching(job: Job, worker: Worker, report: Report) -> Iterator[Watchdog]:
    """Have a worker that hangs ended, unless it is the user's own command."""
    workers = job.cluster.workers
    patience = workers.hang_seconds if workers.count else math.inf
    watchdog = Watchdog(job.folder.path, patience, worker, report)
    with watchdog.watching():
        yield watchdog


def open_tracker(job: Job, worker: Worker, report: Report) -> SilentTracker:
    """Record metrics in the run's folder and its MLflow run; in silence on all but rank 0."""
    return build_tracker(
        worker.is_first,
        job.tracking_uri,
        job.tracking_run_id,
        job.folder.path,
        warn=lambda text: report(Note(text)),
    )


def restore(
    job: Job,
    model: nn.Module,
    average: AveragedModel | None,
    optimizer: Optimizer,
    worker: Worker,
    report: Report,
    before: tuple[int, int] | None = None,
) -> Position:
    """Load the newest whole checkpoint of the run, if there is one. A collective call.

    With `before`, an (epoch, step), one that leaves that step still to be done.
    """
    folder = job.folder.checkpoints
    # The first worker chooses, so that all start from the same file.
    newest = None
    if worker.is_first:
        newest = newest_checkpoint(folder, lambda text: report(Note(text)), before)
    name = same_on_all_workers(newest.name if newest else None, worker)
    if name is None:
        return Position(0, 0, PlateauState())
    state = load_checkpoint(folder / name, worker.device)
    model.load_state_dict(state.model)
    if average:
        average.load_state_dict(state.average)
    optimizer.load_state_dict(state.optimizer)
    if worker.is_first:
        report(Note(f"goes on after {state.epoch} epochs and {state.step} steps ({name})"))
    return Position(state.epoch, state.step, state.plateau)


def save(
    job: Job,
    model: nn.Module,
    average: AveragedModel | None,
    optimizer: Optimizer,
    position: Position,
    worker: Worker,
) -> None:
    """Write a checkpoint, batch-norm statistics averaged first. A collective call."""
    average_buffers(model, worker)
    if average:
        average_buffers(average.module, worker)
    if worker.is_first:
        state = TrainingState(
            epoch=position.epoch,
            step=position.step,
            model=model.state_dict(),
            average=average.state_dict() if average else {},
            optimizer=optimizer.state_dict(),
            plateau=position.plateau,
        )
        save_checkpoint(job.folder.checkpoints, state, job.cluster.saving.checkpoints_to_keep)


def save_weights(model: nn.Module, folder: RunFolder) -> None:
    """Write the final weights; the file appears whole, and marks the run as trained."""
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    write_whole(folder.weights, to_safetensors(weights))
