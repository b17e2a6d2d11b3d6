"""What a training changes at each step, and how that becomes a checkpoint and comes back."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.config.recipe import Recipe
from pipeline.models.classifier import ImageClassifier
from pipeline.models.freezing import freeze_until
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.ema import MovingAverage, build_ema
from pipeline.training.optimizer import build_optimizer
from pipeline.training.schedule import PlateauState


@dataclass(frozen=True)
class Progress:
    """How far a training is: after `step` steps of `epoch`, and the state of the schedule."""

    epoch: int = 0
    step: int = 0
    plateau: PlateauState = field(default_factory=PlateauState)


@dataclass(frozen=True)
class TrainState:
    """A network, its optimizer with its state, and the moving average of the weights, if any."""

    model: ImageClassifier
    optimizer: Optimizer
    ema: MovingAverage | None

    @property
    def eval_model(self) -> nn.Module:
        """The network that is evaluated and kept: the average where there is one."""
        return self.ema.module if self.ema else self.model

    def update_ema(self) -> None:
        """Add the weights after a step to their average, if there is one."""
        if self.ema:
            self.ema.update_parameters(self.model)

    def to_checkpoint(self, progress: Progress) -> Checkpoint:
        """Return what a resumed training needs. Its tensors change with the next step."""
        return Checkpoint(
            epoch=progress.epoch,
            step=progress.step,
            model=self.model.state_dict(),
            average=self.ema.state_dict() if self.ema else {},
            optimizer=self.optimizer.state_dict(),
            plateau=progress.plateau,
        )

    def load(self, checkpoint: Checkpoint) -> Progress:
        """Take over the state of `checkpoint`; return its progress."""
        self.model.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        _match_layouts(self.optimizer)
        if self.ema:
            self.ema.load_state_dict(checkpoint.average)
        return Progress(checkpoint.epoch, checkpoint.step, checkpoint.plateau)


def _match_layouts(optimizer: Optimizer) -> None:
    """Lay out the state of each parameter in memory as the parameter is.

    Fused optimizers go through both by address, and a training may go on in the other layout
    (`channels_last`).
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)


def build_train_state(recipe: Recipe, model: ImageClassifier) -> TrainState:
    """Return `model` with its frozen layers, the recipe's optimizer and average."""
    if recipe.freeze_until:
        freeze_until(model, recipe.freeze_until)
    return TrainState(
        model, build_optimizer(recipe.optimizer, model), build_ema(recipe.averaging, model)
    )
