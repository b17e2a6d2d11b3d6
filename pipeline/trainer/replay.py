"""Runs one step of a past training again, alone, and records what was in it.

The order of images, their crops and the units that dropout drops are functions of the position, so
that the newest checkpoint before a step is all that is needed.
"""

from pipeline.launch.events import Report
from pipeline.launch.training_job import TrainingJob
from pipeline.runtime.distributed import Worker
from pipeline.runtime.errors import UserError
from pipeline.trainer.worker import make_model, restore, training_batches
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
    if not 0 <= epoch < recipe.epochs:
        last = recipe.epochs * sampler.num_steps
        raise UserError(f"step {step}: run '{job.folder.name}' has the steps 1 to {last}")
    train_state = build_train_state(recipe, make_model(job, worker))
    progress = restore(job, train_state, worker, report, before=(epoch, index))
    if progress.epoch != epoch:
        raise UserError(
            f"step {step}: no checkpoint of run '{job.folder.name}' leads to it any more; keep "
            "more with --set cluster.saving.checkpoints_to_keep=N"
        )
    record = job.folder.record()
    if (progress.epoch, progress.step) == (0, 0) and record and record.start_digest:
        raise UserError(
            f"step {step}: run '{job.folder.name}' started from weights that it doesn't keep; of "
            "its first epoch only steps after a checkpoint can run again"
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
