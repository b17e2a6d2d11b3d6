"""Runs one step of a past training again, alone, to see what was in it.

The order of images, their crops and what dropout drops are functions of the position, so that the
newest checkpoint before a step is all it takes to be there again.
"""

from pipeline.launch.events import Report
from pipeline.launch.training_job import TrainingJob
from pipeline.runtime.distributed import Worker
from pipeline.runtime.errors import UserError
from pipeline.trainer.worker import make_model, restore, training_batches
from pipeline.training.loop import train_epoch
from pipeline.training.schedule import Schedule
from pipeline.training.step_inspection import InspectedStep, StepInspector
from pipeline.training.train_state import build_train_state


def replay(job: TrainingJob, step: int, worker: Worker, report: Report) -> InspectedStep:
    """Repeat step `step`, from 1 as it is tracked, from the newest checkpoint of its epoch.

    One process does the work of all workers, with the same micro-batches. Nothing is written.
    Raises `UserError` when the run has no such step, or no checkpoint that leads to it.
    """
    recipe, dealing = job.recipe, job.sampler(worker)
    epoch, number = divmod(step - 1, dealing.num_steps)
    if not 0 <= epoch < recipe.epochs:
        last = recipe.epochs * dealing.num_steps
        raise UserError(f"step {step}: run '{job.folder.name}' has the steps 1 to {last}")
    learner = build_train_state(recipe, make_model(job, worker))
    position = restore(job, learner, worker, report, before=(epoch, number))
    if position.epoch != epoch:
        raise UserError(
            f"step {step}: no checkpoint of run '{job.folder.name}' leads to it any more; keep "
            "more with --set cluster.saving.checkpoints_to_keep=N"
        )
    record = job.folder.record()
    if (position.epoch, position.step) == (0, 0) and record and record.start_digest:
        raise UserError(
            f"step {step}: run '{job.folder.name}' started from weights that it doesn't keep; of "
            "its first epoch only steps after a checkpoint can run again"
        )
    store = job.store()
    split = store.split(recipe.data.train_split)
    sight = StepInspector(
        learner.model, learner.optimizer, training_batches(job, dealing, position, worker, report)
    )
    for outcome in train_epoch(
        recipe, learner.model, learner.optimizer, Schedule(recipe.schedule, recipe.epochs),
        position.plateau, sight, dealing, worker, epoch, position.step,
    ):  # fmt: skip
        if outcome.step == number:
            break
        sight.forget()
    return InspectedStep(
        step=step,
        learning_rate=outcome.learning_rate,
        loss=float(outcome.sums[0] / outcome.sums[3]),
        gradient_norm=sight.gradient_norm,
        images=sight.images(split.keys, [each.name for each in store.classes]),
    )
