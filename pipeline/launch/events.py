"""The events that workers send to the driver."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.evaluation.metrics import Counts


@dataclass(frozen=True)
class StepsReport:
    """The state of the training after `step` steps of `epoch` (counted from 0).

    The loss is the mean over the images since the last report, errors are in percent,
    `gradient_norm` is the largest of those steps, and `seconds_waiting` is how much of `seconds`
    the first worker waited for images.
    """

    epoch: int
    epochs: int
    step: int
    num_steps: int
    loss: float
    top1_error: float
    top5_error: float
    learning_rate: float
    gradient_norm: float
    images_per_second: float
    seconds: float
    seconds_waiting: float


@dataclass(frozen=True)
class ValidationReport:
    """A split was evaluated after `epoch` whole epochs."""

    epoch: int
    epochs: int
    split: str
    protocol: str
    counts: Counts


@dataclass(frozen=True)
class Phase:
    """The part `name` of the start begins, and the one before has ended."""

    name: str


@dataclass(frozen=True)
class BatchTaken:
    """The first worker has taken `batch` of `num_batches` micro-batches of the step after `step`.

    Sent every few seconds.
    """

    epoch: int
    epochs: int
    step: int
    num_steps: int
    batch: int
    num_batches: int


@dataclass(frozen=True)
class ImagesScored:
    """An evaluation has scored `done` of the first worker's `images`; sent every few seconds."""

    split: str
    done: int
    images: int
    images_per_second: float


@dataclass(frozen=True)
class Message:
    """A line of text for the user."""

    text: str


@dataclass(frozen=True)
class WorkerStarted:
    """A worker starts, for the first time or again after a failure."""

    rank: int


@dataclass(frozen=True)
class WorkerSpeed:
    """A worker's mean seconds of a step since its last report, and how many of them it waited.

    `gpu_bytes` is the memory in use on its GPU, by all processes; 0 on a CPU.
    """

    rank: int
    step_seconds: float
    waiting_seconds: float
    gpu_bytes: int


@dataclass(frozen=True)
class Heartbeat:
    """Says that the worker runs, and how many batches it has taken."""

    rank: int
    batches: int


@dataclass(frozen=True)
class WorkerHung:
    """No batch was taken for `seconds`, and a worker ends itself; its stacks are in `folder`.

    `late` are the workers that the others waited for, or all.
    """

    rank: int
    seconds: float
    folder: Path
    late: tuple[int, ...]


Event = (
    StepsReport
    | ValidationReport
    | Phase
    | BatchTaken
    | ImagesScored
    | Message
    | WorkerStarted
    | WorkerSpeed
    | Heartbeat
    | WorkerHung
)
Report = Callable[[Event], None]
