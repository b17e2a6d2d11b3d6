"""Runs one step of a past training again, alone, and records what was in it.

The order of images, their crops and the units that dropout drops are functions of the position, so
that the newest checkpoint before a step is all that is needed.
"""

from pathlib import Path

from pipeline.launch.events import Report
from pipeline.launch.training_job import TrainingJob
from pipeline.runtime.distributed import Worker
from pipeline.runtime.errors import UserError
from pipeline.trainer.worker import make_model, restore, training_batches
from pipeline.training.checkpoint import checkpoints, position_of
from pipeline.training.grouped_forward import build_forward
from pipeline.training.loop import train_epoch
from pipeline.training.step_inspection import InspectedStep, StepInspector
from pipeline.training.train_state import build_train_state


def replay(job: TrainingJob, step: int, worker: Worker, report: Report) -> InspectedStep:
    """Repeat step `step`, from 1 as it is tracked, from the newest checkpoint of its epoch.

    One process does the work of all workers, with the same micro-batches. Nothing is written.
    Raises `UserError` if the run has no such step, or no checkpoint that leads to it.
    """
    recipe, sampler = job.recipe, job.sampler(worker)
    epoch, index = divmod(step - 1, sampler.num_steps)
    record = job.folder.record()
    from_scratch = not (record and record.start_digest)
    there = replayable_steps(job.folder.checkpoints, sampler.num_steps, recipe.epochs, from_scratch)
    known = f"those that can run again: {there}"
    if not 0 <= epoch < recipe.epochs:
        last = recipe.epochs * sampler.num_steps
        raise UserError(f"step {step}: run '{job.folder.name}' has the steps 1 to {last}; {known}")
    train_state = build_train_state(recipe, make_model(job, worker))
    progress = restore(job, train_state, worker, report, before=(epoch, index))
    if progress.epoch != epoch:
        raise UserError(
            f"step {step}: no checkpoint of run '{job.folder.name}' leads to it any more; {known}; "
            "keep more with --set cluster.saving.checkpoints_to_keep=N"
        )
    if (progress.epoch, progress.step) == (0, 0) and not from_scratch:
        raise UserError(
            f"step {step}: run '{job.folder.name}' started from weights that it doesn't keep; of "
            f"its first epoch only steps after a checkpoint can run again; {known}"
        )
    store = job.store()
    split = store.split(recipe.data.train_split)
    model, optimizer = train_state.model, train_state.optimizer
    forward = build_forward(recipe, model, sampler, worker, job.cluster.compute.engine)
    loader = training_batches(job, sampler, progress, worker, report)
    inspector = StepInspector(forward, optimizer, loader)
    for result in train_epoch(recipe, forward, optimizer, inspector, sampler, worker, progress):
        if result.step == index:
            break
        inspector.reset()
    return InspectedStep(
        step=step,
        learning_rate=result.learning_rate,
        loss=float(result.sums.loss / result.sums.images),
        gradient_norm=inspector.gradient_norm,
        images=inspector.images(split.keys, [each.name for each in store.classes]),
    )


def replayable_steps(folder: Path, num_steps: int, epochs: int, from_scratch: bool) -> str:
    """Return the steps that the checkpoints of `folder` lead to, as "1–15, 1171–1200".

    A step is led to by a checkpoint of its epoch; in the first epoch also by the network's random
    start, where the run began `from_scratch`.
    """
    first = {0: 0} if from_scratch else {}  # the first step, by epoch
    for path in checkpoints(folder):
        epoch, step = position_of(path)
        if epoch < epochs:
            first[epoch] = min(step, first.get(epoch, step))
    ranges: list[list[int]] = []
    for epoch, step in sorted(first.items()):
        start, end = epoch * num_steps + step + 1, (epoch + 1) * num_steps
        if ranges and ranges[-1][1] == start - 1:
            ranges[-1][1] = end
        else:
            ranges.append([start, end])
    return ", ".join(f"{start}–{end}" for start, end in ranges) or "none"
