"""One worker of a training: builds every part from the recipe, runs the epochs."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial

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
from pipeline.launch.events import Message, Phase, Report
from pipeline.launch.heartbeat import Watchdog
from pipeline.launch.stop_signal import StopRequest, StopSignal
from pipeline.launch.training_job import TrainingJob, watched
from pipeline.models.classifier import ImageClassifier, to_device
from pipeline.models.zoo import build_model
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.distributed import Worker, same_on_all_workers
from pipeline.runtime.errors import InterruptedByUserError
from pipeline.tracking.tracker import SilentTracker, Tracker
from pipeline.trainer.batch_progress import BatchProgress
from pipeline.trainer.metric_aggregation import MetricAggregator
from pipeline.trainer.validation import Validation
from pipeline.training.checkpoint import Retention, load_checkpoint, newest_checkpoint
from pipeline.training.checkpoint_writer import CheckpointWriter, SilentWriter
from pipeline.training.grouped_forward import GroupedForward, build_forward
from pipeline.training.loop import train_epoch
from pipeline.training.loss_monitor import LossMonitor
from pipeline.training.schedule import Schedule
from pipeline.training.train_state import Progress, TrainState, build_train_state


@dataclass(frozen=True)
class WorkerContext:
    """All that a worker trains with, from the checkpoint that it starts from to the last one."""

    job: TrainingJob
    worker: Worker
    report: Report
    sampler: BatchSampler
    train_state: TrainState
    watchdog: Watchdog
    stop_signal: StopSignal
    writer: SilentWriter
    monitor: LossMonitor
    aggregator: MetricAggregator
    batch_progress: BatchProgress
    validation: Validation


def train(job: TrainingJob, worker: Worker, report: Report) -> Counts:
    """Train from the state in the run's folder to the end; return the last evaluation.

    A collective call: every worker of the job makes it, and all return the same counts, or raise
    `InterruptedByUserError` at the same step, once that is saved.
    """
    if worker.is_first:
        report(Phase("data"))
    # First, since it may stage the data set, which takes longer than the watchdog allows. The
    # workers of a node that is done wait for the others in `restore`, not watched yet.
    sampler = job.sampler(worker)
    train_state = build_train_state(job.recipe, make_model(job, worker))
    progress = restore(job, train_state, worker, report)
    if worker.is_first:
        report(Phase("first batch"))
    with worker_context(job, worker, report, sampler, train_state, progress) as context:
        counts = train_epochs(progress, context)
        if counts is None:  # interrupted between the last checkpoint and the weights
            counts = validate(job.recipe.epochs, context)
        context.writer.flush()
    if worker.is_first:
        save_weights(train_state.eval_model, job.folder)
        context.validation.write_predictions()
    return counts


@contextmanager
def worker_context(
    job: TrainingJob,
    worker: Worker,
    report: Report,
    sampler: BatchSampler,
    train_state: TrainState,
    progress: Progress,
) -> Iterator[WorkerContext]:
    """Open what records a training, what saves it and what watches over it.

    The first worker records and saves; on the others that is silent.
    """
    recipe, saving, folder = job.recipe, job.cluster.saving, job.folder
    tracker, writer = SilentTracker(), SilentWriter()
    if worker.is_first:
        warn = partial(_warn, report)
        tags = {"precision": job.precision}
        tracker = Tracker(
            job.tracking_uri, folder.tracking_run_id, folder.path, tags=tags, warn=warn
        )
        retention = Retention(saving.checkpoints_to_keep, saving.keep_every_epochs)
        writer = CheckpointWriter(folder.checkpoints, retention, warn)
    steps_done = progress.epoch * sampler.num_steps + progress.step
    with closing(tracker), closing(writer), watched(job, worker, report) as watchdog:
        yield WorkerContext(
            job,
            worker,
            report,
            sampler,
            train_state,
            watchdog,
            StopSignal(folder, 60 * saving.checkpoint_minutes, worker),
            writer,
            LossMonitor(recipe, train_state.model.flat_loss_hint, steps_done),
            MetricAggregator(recipe, sampler, worker, report, tracker),
            BatchProgress(recipe, sampler, worker, report),
            Validation(job, worker, watchdog, report),
        )


def train_epochs(progress: Progress, context: WorkerContext) -> Counts | None:
    """Train from `progress` to the end; return the last evaluation, None if no epoch was left."""
    recipe, worker, sampler = context.job.recipe, context.worker, context.sampler
    train_state = context.train_state
    cluster = context.job.cluster
    model = in_parallel(
        build_forward(recipe, train_state.model, sampler, worker, cluster.compute.engine), worker
    )
    schedule = Schedule(recipe.schedule, recipe.epochs)
    counts = None
    with closing(
        training_batches(context.job, sampler, progress, worker, context.report)
    ) as loader:
        for epoch in range(progress.epoch, recipe.epochs):
            batches = context.batch_progress.of_epoch(context.watchdog.counted(loader), progress)
            for result in train_epoch(
                recipe, model, train_state.optimizer, batches, sampler, worker, progress
            ):
                context.aggregator.add(result)
                train_state.update_ema()
                context.watchdog.step_done()
                context.batch_progress.step_done(result.step + 1)
                end_step(replace(progress, step=result.step + 1), context)
            counts = validate(epoch + 1, context)
            plateau = schedule.observe(progress.plateau, epoch + 1, counts.top1_error)
            progress = Progress(epoch + 1, 0, plateau)
            save_progress(progress, context)
    context.stop_signal.close()
    return counts


def end_step(progress: Progress, context: WorkerContext) -> None:
    """Report, save, or stop after a step, as the cluster's settings and requests say."""
    saving, num_steps = context.job.cluster.saving, context.sampler.num_steps
    request = context.stop_signal.poll()
    is_last = progress.step == num_steps
    every = saving.checkpoint_every_steps
    is_due = every is not None and progress.step % every == 0
    saves = request is StopRequest.STOP or ((is_due or request is StopRequest.SAVE) and not is_last)
    # Before saving, so that the loss of what is saved has been checked.
    if saves or is_last or progress.step % saving.log_every_steps == 0:
        loss = context.aggregator.report_steps().loss
        context.monitor.observe(progress.epoch * num_steps + progress.step, loss)
    if saves:
        save_progress(progress, context)
    if request is StopRequest.STOP:
        context.writer.flush()
        context.stop_signal.close()
        raise InterruptedByUserError(
            f"stopped as asked, after {progress.epoch} epochs and {progress.step} steps; the same "
            "command goes on from there"
        )


def save_progress(progress: Progress, context: WorkerContext) -> None:
    """Have a checkpoint written."""
    context.writer.write(context.train_state.to_checkpoint(progress))
    context.stop_signal.checkpoint_saved()


def validate(epoch: int, context: WorkerContext) -> Counts:
    """Evaluate after `epoch` epochs, and report it. A collective call."""
    counts = context.validation.run(context.train_state.eval_model, epoch)
    context.aggregator.report_evaluation(epoch, counts)
    return counts


def make_model(job: TrainingJob, worker: Worker) -> ImageClassifier:
    """Return the recipe's network on the worker's device, with the weights that it starts from."""
    torch.manual_seed(job.recipe.seed)
    model = build_model(job.recipe.network, job.recipe.input)
    model = to_device(model, worker.device, channels_last=job.cluster.channels_last)
    if job.initial_weights:
        job.initial_weights.load_into(model)
    return model


def in_parallel(model: GroupedForward, worker: Worker) -> nn.Module:
    """Return `model` such that its gradients are averaged over the workers."""
    if worker.world_size == 1:
        return model
    devices = [worker.device] if worker.device.type == "cuda" else None
    # Batch-norm statistics are averaged after each step (`BatchNormStatistics`).
    return DistributedDataParallel(
        model, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
    )


def training_batches(
    job: TrainingJob, sampler: BatchSampler, progress: Progress, worker: Worker, report: Report
) -> Loader:
    """Return the loader of this worker's micro-batches, from `progress` to the last epoch."""
    recipe = job.recipe
    images = job.store().split(recipe.data.train_split)
    quarantine, bad_images = None, recipe.data.bad_images
    if isinstance(bad_images, QuarantineBadImages):
        quarantine = Quarantine(
            job.folder.quarantined, images, bad_images.max_share, partial(_warn, report)
        )
    return build_loader(
        images,
        training_plan(recipe, images, sampler, worker.rank, progress.epoch, progress.step),
        recipe.input,
        job.cluster.loading,
        worker.device,
        max_batch_size=sampler.max_pass_size,
        fill=recipe.augmentation.appearance.fill,
        channels_last=job.cluster.channels_last,
        quarantine=quarantine,
    )


def restore(
    job: TrainingJob,
    train_state: TrainState,
    worker: Worker,
    report: Report,
    before: tuple[int, int] | None = None,
) -> Progress:
    """Load the newest whole checkpoint of the run, if there is one. A collective call.

    With `before`, (epoch, step), it is the newest from which that step is still to be done.
    """
    folder = job.folder.checkpoints
    # The first worker chooses, so that all start from the same file.
    newest = None
    if worker.is_first:
        newest = newest_checkpoint(folder, partial(_warn, report), before)
    name = same_on_all_workers(newest.name if newest else None, worker)
    if name is None:
        return Progress()
    progress = train_state.load(load_checkpoint(folder / name, worker.device))
    if worker.is_first:
        number = worker.world_size
        by = f" with {number} worker{'s' * (number > 1)}" if job.cluster.workers.is_elastic else ""
        report(
            Message(f"goes on{by} after {progress.epoch} epochs and {progress.step} steps ({name})")
        )
    return progress


def save_weights(model: nn.Module, folder: RunFolder) -> None:
    """Write the final weights; the file appears whole, and marks the run as trained."""
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    folder.write_weights(to_safetensors(weights))


def _warn(report: Report, text: str) -> None:
    report(Message(text))
