"""Stops a training whose loss stays at chance or diverges, before it has cost days."""

import math

from pipeline.config.recipe import Recipe
from pipeline.runtime.errors import TrainingStoppedError

# Times ln(classes), the loss at chance. At the first the label has a probability of classes^-10.
_DIVERGED = 10
_WORSE_THAN_CHANCE = 1.1
REMEDY = (
    "lower optimizer.learning_rate, give it schedule.warmup_epochs, or set max_gradient_norm; "
    "`ilsvrc replay` with this run and step shows its images"
)


class LossMonitor:
    """Checks the mean loss between two reports; raises when going on makes no sense.

    A network that guesses every class alike has a loss of ln(classes). A training is stopped if its
    loss has not come 1 % below that within the first `recipe.flat_loss_steps` steps, or if it has,
    and is later ten times that. Not earlier, because the first steps of an initialization as
    AlexNet's may leap and come back. A training that is resumed after those steps, `steps_done`,
    has passed the first check. All workers are given the same loss, so that all stop together. The
    loss of `loss.kind: map` has no such level of chance and is not checked.
    """

    def __init__(self, recipe: Recipe, flat_loss_hint: str, steps_done: int = 0) -> None:
        self._limit = recipe.flat_loss_steps
        self._chance = math.log(recipe.network.num_classes)
        self._has_chance_level = recipe.loss.kind == "cross-entropy"
        self._network = recipe.network.name
        self._flat_loss_hint = flat_loss_hint
        self._has_learned = self._limit is not None and steps_done >= self._limit

    def observe(self, steps: int, loss: float) -> None:
        """Check the mean `loss` of the last steps, `steps` after the start of the training."""
        if not self._has_chance_level:
            return
        if self._has_learned and loss > _DIVERGED * self._chance:
            raise TrainingStoppedError(
                f"the loss diverged: {loss:.4g} at step {steps:,}, chance is {self._chance:.3f}; "
                f"{REMEDY}"
            )
        self._has_learned |= loss < 0.99 * self._chance
        if self._limit and steps >= self._limit and not self._has_learned:
            if loss > _WORSE_THAN_CHANCE * self._chance:
                state, remedy = "has learnt nothing and is worse than guessing", REMEDY
            else:
                state, remedy = "still guesses every class alike", self._flat_loss_hint
            raise TrainingStoppedError(
                f"flat loss: after {steps:,} steps {self._network} {state} (loss {loss:.3f}, "
                f"chance {self._chance:.3f}); {remedy}"
            )
