"""What the first worker tells the driver while it works."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.evaluation.metrics import Counts


@dataclass(frozen=True)
class Progress:
    """The state of the training after `step` steps of `epoch` (counted from 0).

    The loss is the mean over the images since the last report, errors are in percent, and
    `seconds_waiting` is how much of `seconds` the first worker waited for images.
    """

    epoch: int
    epochs: int
    step: int
    num_steps: int
    loss: float
    top1_error: float
    top5_error: float
    learning_rate: float
    images_per_second: float
    seconds: float
    seconds_waiting: float


@dataclass(frozen=True)
class Evaluated:
    """A split was evaluated after `epoch` whole epochs."""

    epoch: int
    epochs: int
    split: str
    protocol: str
    counts: Counts


@dataclass(frozen=True)
class Note:
    """Something a person should read."""

    text: str


Event = Progress | Evaluated | Note
Report = Callable[[Event], None]
