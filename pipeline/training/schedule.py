"""The learning rate as a pure function of how far the training is.

Only the plateau has a state, of the errors so far: `PlateauState`, a value that is saved with the
checkpoint.
"""

import math
from dataclasses import dataclass, replace
from typing import assert_never

from pipeline.config import optimization


@dataclass(frozen=True)
class PlateauState:
    """The best top-1 error so far, in percent, epochs since then or a drop, drops of the rate.

    `best_epoch` is the number of epochs done when that error was measured.
    """

    best_error: float = math.inf
    epochs_since_best: int = 0
    num_drops: int = 0
    best_epoch: int = 0


@dataclass(frozen=True)
class Schedule:
    """Learning-rate factors over `epochs` epochs."""

    settings: optimization.ScheduleConfig
    epochs: int

    def factor(self, position: float, plateau: PlateauState) -> float:
        """Return the factor of the base learning rate.

        `position` counts epochs from the start, with a fraction: 1.5 is half-way through the
        second. During warm-up the factor rises linearly from 0.
        """
        warmup = self.settings.warmup_epochs
        if position < warmup:
            return position / warmup
        progress = (position - warmup) / (self.epochs - warmup)
        match self.settings:
            case optimization.ConstantSchedule():
                return 1.0
            case optimization.StepSchedule(epochs=epochs, factor=factor):
                return factor ** sum(position >= epoch for epoch in epochs)
            case optimization.PiecewiseSchedule(epochs=epochs, factors=factors):
                return (1.0, *factors)[sum(position >= epoch for epoch in epochs)]
            case optimization.ExponentialSchedule(factor=factor, every_epochs=every):
                return factor ** (position // every)
            case optimization.PlateauSchedule(factor=factor):
                return factor**plateau.num_drops
            case optimization.PolySchedule(power=power):
                return (1.0 - progress) ** power
            case optimization.CosineSchedule(final_factor=final):
                return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))
            case _:
                assert_never(self.settings)

    def observe(self, state: PlateauState, epoch: int, top1_error: float) -> PlateauState:
        """Return the state after `epoch` epochs, with a `top1_error` (percent) then."""
        if top1_error < state.best_error:
            return replace(state, best_error=top1_error, epochs_since_best=0, best_epoch=epoch)
        waited = state.epochs_since_best + 1
        settings = self.settings
        if (
            isinstance(settings, optimization.PlateauSchedule)
            and waited >= settings.patience
            and state.num_drops < settings.max_drops
        ):
            return replace(state, epochs_since_best=0, num_drops=state.num_drops + 1)
        return replace(state, epochs_since_best=waited)
