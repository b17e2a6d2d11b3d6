"""What a training changes at each step, and how that becomes a checkpoint and comes back."""

from dataclasses import dataclass, field

from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from pipeline.config.recipe import Recipe
from pipeline.models.classifier import ImageClassifier
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.ema import build_ema
from pipeline.training.optimizer import build_optimizer
from pipeline.training.schedule import PlateauState


@dataclass(frozen=True)
class Progress:
    """How far a training is: after `step` steps of `epoch`, and what the schedule remembers."""

    epoch: int = 0
    step: int = 0
    plateau: PlateauState = field(default_factory=PlateauState)


@dataclass(frozen=True)
class TrainState:
    """A network, what its optimizer remembers, and the moving average of its weights, if any."""

    model: ImageClassifier
    optimizer: Optimizer
    average: AveragedModel | None

    @property
    def final(self) -> nn.Module:
        """The network that is evaluated and kept."""
        return self.average.module if self.average else self.model

    def follow(self) -> None:
        """Add the weights after a step to their average."""
        if self.average:
            self.average.update_parameters(self.model)

    def state(self, position: Progress) -> Checkpoint:
        """Return what a resumed training needs. Its tensors change with the next step."""
        return Checkpoint(
            epoch=position.epoch,
            step=position.step,
            model=self.model.state_dict(),
            average=self.average.state_dict() if self.average else {},
            optimizer=self.optimizer.state_dict(),
            plateau=position.plateau,
        )

    def load(self, state: Checkpoint) -> Progress:
        """Become what was saved; return where that was."""
        self.model.load_state_dict(state.model)
        self.optimizer.load_state_dict(state.optimizer)
        if self.average:
            self.average.load_state_dict(state.average)
        return Progress(state.epoch, state.step, state.plateau)


def build_train_state(recipe: Recipe, model: ImageClassifier) -> TrainState:
    """Give `model` the recipe's optimizer and average."""
    return TrainState(
        model, build_optimizer(recipe.optimizer, model), build_ema(recipe.averaging, model)
    )
