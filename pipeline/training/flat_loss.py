"""Notices a training that learns nothing, before it has cost days."""

import math

from pipeline.errors import TrainingStoppedError
from pipeline.recipe import Recipe


class LossWatch:
    """Looks at the mean loss between two reports; raises when going on makes no sense.

    A network that guesses every class alike has a loss of ln(classes). One whose loss has not come
    1 % below that within the first `recipe.flat_loss_steps` steps is stopped. All workers see the
    same loss, so that all stop together.
    """

    def __init__(self, recipe: Recipe, hint: str) -> None:
        self._limit = recipe.flat_loss_steps if recipe.loss.kind == "cross-entropy" else None
        self._chance = math.log(recipe.network.num_classes)
        self._network = recipe.network.name
        self._hint = hint
        self._has_learnt = False

    def observe(self, steps: int, loss: float) -> None:
        """Take the mean `loss` of the last steps, `steps` after the start of the training."""
        self._has_learnt |= loss < 0.99 * self._chance
        if self._limit and steps >= self._limit and not self._has_learnt:
            raise TrainingStoppedError(
                f"flat loss: after {steps:,} steps {self._network} still guesses every class "
                f"alike (loss {loss:.3f}, chance {self._chance:.3f}); {self._hint}"
            )
