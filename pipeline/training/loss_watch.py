"""Notices a training that learns nothing, or worse than that, before it has cost days."""

import math

from pipeline.config.recipe import Recipe
from pipeline.runtime.errors import TrainingStoppedError

# A loss of so many times ln(classes): the label has classes^-10 of the probability.
_DIVERGED = 10
_WORSE = 1.1  # times ln(classes): more than guessing every class alike
MEND = (
    "lower optimizer.learning_rate, give it schedule.warmup_epochs, or set max_gradient_norm; "
    "`ilsvrc replay` with this run and step shows its images"
)


class LossWatch:
    """Looks at the mean loss between two reports; raises when going on makes no sense.

    A network that guesses every class alike has a loss of ln(classes). One whose loss has not come
    1 % below that within the first `recipe.flat_loss_steps` steps is stopped, and one whose loss
    has, and is then ten times that: before, the first steps of a start as AlexNet's may leap and
    come back. A training that goes on after those steps, `steps_done`, has come through before. All
    workers see the same loss, so that all stop together. `loss.kind: map` has no such level of
    chance; its loss is not looked at.
    """

    def __init__(self, recipe: Recipe, hint: str, steps_done: int = 0) -> None:
        self._limit = recipe.flat_loss_steps
        self._chance = math.log(recipe.network.num_classes)
        self._has_chance_level = recipe.loss.kind == "cross-entropy"
        self._network = recipe.network.name
        self._hint = hint
        self._has_learnt = self._limit is not None and steps_done >= self._limit

    def observe(self, steps: int, loss: float) -> None:
        """Take the mean `loss` of the last steps, `steps` after the start of the training."""
        if not self._has_chance_level:
            return
        if self._has_learnt and loss > _DIVERGED * self._chance:
            raise TrainingStoppedError(
                f"the loss diverged: {loss:.4g} at step {steps:,}, chance is {self._chance:.3f}; "
                f"{MEND}"
            )
        self._has_learnt |= loss < 0.99 * self._chance
        if self._limit and steps >= self._limit and not self._has_learnt:
            if loss > _WORSE * self._chance:
                what, mend = f"{self._network} has learnt nothing and is worse than guessing", MEND
            else:
                what, mend = f"{self._network} still guesses every class alike", self._hint
            raise TrainingStoppedError(
                f"flat loss: after {steps:,} steps {what} (loss {loss:.3f}, chance "
                f"{self._chance:.3f}); {mend}"
            )
