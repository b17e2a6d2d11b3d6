"""One worker of a job: builds every part from the recipe, runs the epochs."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import torch
from safetensors.torch import save as to_safetensors
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.config.recipe import QuarantineBadImages
from pipeline.data.loading.loader import Loader, build_loader
from pipeline.data.loading.plans import training_plan
from pipeline.data.loading.quarantine import Quarantine
from pipeline.data.loading.sampler import BatchSampler
from pipeline.evaluation.metrics import Counts
from pipeline.launch.events import Message, Report
from pipeline.launch.heartbeat import Watchdog
from pipeline.launch.stop_signal import StopRequest, StopSignal
from pipeline.launch.training_job import TrainingJob, watched
from pipeline.models.classifier import ImageClassifier, to_device
from pipeline.models.weights_file import read_weights
from pipeline.models.zoo import build_model
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.distributed import Worker, same_on_all_workers
from pipeline.runtime.errors import InterruptedByUserError
from pipeline.runtime.storage import write_atomically
from pipeline.tracking.tracker import SilentTracker, build_tracker
from pipeline.trainer.metric_aggregation import MetricAggregator
from pipeline.trainer.validation import Validation
from pipeline.training.checkpoint import Retention, load_checkpoint, newest_checkpoint
from pipeline.training.checkpoint_writer import CheckpointWriter, SilentWriter
from pipeline.training.loop import train_epoch
from pipeline.training.loss_watch import LossWatch
from pipeline.training.schedule import Schedule
from pipeline.training.train_state import Progress, TrainState, build_train_state


@dataclass(frozen=True)
class WorkerContext:
    """What a worker has around it while it trains."""

    worker: Worker
    report: Report
    watchdog: Watchdog
    dealing: BatchSampler
    meter: MetricAggregator
    writer: SilentWriter
    testing: Validation


def train(job: TrainingJob, worker: Worker, report: Report) -> Counts:
    """Train from wherever the run's folder says, to the end; return the last evaluation.

    A collective call: every worker of the job makes it, and all return the same counts, or raise
    `InterruptedByUserError` at the same step, once that is saved.
    """
    # First, since it may have the data set staged for longer than a watchdog grants. The workers of
    # a node that is done wait for the others in `restore`, where nothing watches them yet.
    dealing = job.sampler(worker)
    model = make_model(job, worker)
    if job.initial_weights:
        model.start_from(read_weights(job.initial_weights))
    learner = build_train_state(job.recipe, model)
    position = restore(job, learner, worker, report)
    with worker_context(job, dealing, worker, report) as around:
        counts = _epochs(job, learner, position, around)
        if counts is None:  # stopped between the last checkpoint and the weights
            counts = around.testing.test(learner.final, is_last=True)
            around.meter.report_evaluation(job.recipe.epochs, counts)
        around.writer.flush()
    if worker.is_first:
        save_weights(learner.final, job.folder)
        around.testing.keep()
    return counts


@contextmanager
def worker_context(
    job: TrainingJob, dealing: BatchSampler, worker: Worker, report: Report
) -> Iterator[WorkerContext]:
    """Open what records a training, what saves it and what watches over it."""
    with (
        closing(open_tracker(job, worker, report)) as tracker,
        closing(open_writer(job, worker, report)) as writer,
        watched(job, worker, report) as watchdog,
    ):
        meter = MetricAggregator(job.recipe, dealing.num_steps, worker, report, tracker)
        testing = Validation(job, worker, watchdog)
        yield WorkerContext(worker, report, watchdog, dealing, meter, writer, testing)


def _epochs(
    job: TrainingJob, learner: TrainState, position: Progress, around: WorkerContext
) -> Counts | None:
    """Train from `position` to the end; return the last evaluation, if there is anything to do."""
    worker, meter, writer = around.worker, around.meter, around.writer
    recipe, saving, dealing = job.recipe, job.cluster.saving, around.dealing
    schedule = Schedule(recipe.schedule, recipe.epochs)
    steps_done = position.epoch * dealing.num_steps + position.step
    watch = LossWatch(recipe, learner.model.flat_loss_hint, steps_done)
    parallel = in_parallel(learner.model, worker)
    ballot = StopSignal(job.folder, 60 * saving.checkpoint_minutes, worker)

    counts = None
    with closing(training_batches(job, dealing, position, worker, around.report)) as batches:
        for epoch in range(position.epoch, recipe.epochs):
            for outcome in train_epoch(
                recipe, parallel, learner.optimizer, schedule, position.plateau,
                around.watchdog.counted(batches), dealing, worker, epoch, position.step,
            ):  # fmt: skip
                meter.add(outcome)
                learner.follow()
                done, asked = outcome.step + 1, ballot.poll()
                is_last = done == dealing.num_steps
                every = saving.checkpoint_every_steps
                is_due = every is not None and done % every == 0
                saves = asked is StopRequest.STOP or (
                    (is_due or asked is StopRequest.SAVE) and not is_last
                )
                # What is saved has had its loss looked at.
                if done % saving.log_every_steps == 0 or is_last or saves:
                    watch.observe(epoch * dealing.num_steps + done, meter.report_steps().loss)
                if saves:
                    writer.write(learner.state(Progress(epoch, done, position.plateau)))
                    ballot.checkpoint_saved()
                if asked is StopRequest.STOP:
                    writer.flush()
                    ballot.close()
                    raise InterruptedByUserError(
                        f"stopped as asked, after {epoch} epochs and {done} steps; the same "
                        "command goes on from there"
                    )
            counts = around.testing.test(learner.final, is_last=epoch + 1 == recipe.epochs)
            meter.report_evaluation(epoch + 1, counts)
            plateau = schedule.observe(position.plateau, epoch + 1, counts.top1_error)
            position = Progress(epoch + 1, 0, plateau)
            writer.write(learner.state(position))
            ballot.checkpoint_saved()
    ballot.close()
    return counts


def make_model(job: TrainingJob, worker: Worker) -> ImageClassifier:
    """Build the recipe's network with its seed's initial weights, on the worker's device."""
    torch.manual_seed(job.recipe.seed)
    model = build_model(job.recipe.network, job.recipe.input)
    return to_device(model, worker.device, channels_last=job.cluster.channels_last)


def in_parallel(model: nn.Module, worker: Worker) -> nn.Module:
    """Have the gradients of `model` averaged over the workers."""
    if worker.world_size == 1:
        return model
    devices = [worker.device] if worker.device.type == "cuda" else None
    # Batch-norm statistics are combined after each step (`pipeline.training.batch_norm`).
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def training_batches(
    job: TrainingJob, dealing: BatchSampler, position: Progress, worker: Worker, report: Report
) -> Loader:
    """Load this worker's micro-batches from `position` to the end of the training."""
    recipe = job.recipe
    images = job.store().split(recipe.data.train_split)
    quarantine, bad_images = None, recipe.data.bad_images
    if isinstance(bad_images, QuarantineBadImages):
        quarantine = Quarantine(
            job.folder.quarantined, images, bad_images.max_share, lambda text: report(Message(text))
        )
    return build_loader(
        images,
        training_plan(recipe, images, dealing, worker.rank, position.epoch, position.step),
        recipe.input,
        job.cluster.loading,
        worker.device,
        max_batch_size=dealing.max_micro_batch_size,
        fill=recipe.augmentation.appearance.fill,
        channels_last=job.cluster.channels_last,
        quarantine=quarantine,
    )


def open_tracker(job: TrainingJob, worker: Worker, report: Report) -> SilentTracker:
    """Record metrics in the run's folder and its MLflow run; in silence on all but rank 0."""
    return build_tracker(
        worker.is_first,
        job.tracking_uri,
        job.folder.tracking_run_id,
        job.folder.path,
        warn=lambda text: report(Message(text)),
    )


def open_writer(job: TrainingJob, worker: Worker, report: Report) -> SilentWriter:
    """Write checkpoints to the run's folder; none on all but rank 0."""
    if not worker.is_first:
        return SilentWriter()
    saving = job.cluster.saving
    retention = Retention(saving.checkpoints_to_keep, saving.keep_every_epochs)
    return CheckpointWriter(
        job.folder.checkpoints, retention, warn=lambda text: report(Message(text))
    )


def restore(
    job: TrainingJob,
    learner: TrainState,
    worker: Worker,
    report: Report,
    before: tuple[int, int] | None = None,
) -> Progress:
    """Load the newest whole checkpoint of the run, if there is one. A collective call.

    With `before`, an (epoch, step), one that leaves that step still to be done.
    """
    folder = job.folder.checkpoints
    # The first worker chooses, so that all start from the same file.
    newest = None
    if worker.is_first:
        newest = newest_checkpoint(folder, lambda text: report(Message(text)), before)
    name = same_on_all_workers(newest.name if newest else None, worker)
    if name is None:
        return Progress()
    position = learner.load(load_checkpoint(folder / name, worker.device))
    if worker.is_first:
        number = worker.world_size
        by = f" with {number} worker{'s' * (number > 1)}" if job.cluster.workers.is_elastic else ""
        report(
            Message(f"goes on{by} after {position.epoch} epochs and {position.step} steps ({name})")
        )
    return position


def save_weights(model: nn.Module, folder: RunFolder) -> None:
    """Write the final weights; the file appears whole, and marks the run as trained."""
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    write_atomically(folder.weights, to_safetensors(weights))
