"""What every network of the zoo has in common: images in, logits out, and what it can take."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from pipeline.runtime.errors import UserError


@dataclass(frozen=True)
class InputShape:
    """What a network takes: square images, or signals where `dimensions` is 1.

    `num_channels` and `size` are the published ones; a network is built for any number of channels
    and takes every side from `min_size` to `max_size` (`None`: no upper bound).
    """

    num_channels: int
    size: int
    min_size: int
    max_size: int | None = None
    dimensions: int = 2

    @property
    def published(self) -> tuple[int, ...]:
        """The published shape of one image, (c, h, w), or of one signal, (c, length)."""
        return self.num_channels, *(self.size,) * self.dimensions

    def takes(self, size: int, dimensions: int = 2) -> bool:
        fits = size >= self.min_size and (self.max_size is None or size <= self.max_size)
        return fits and dimensions == self.dimensions

    def __str__(self) -> str:
        sides = "×".join([str(self.min_size)] * self.dimensions)
        bound = "" if self.max_size == self.min_size else "at least "
        return f"{'images' if self.dimensions == 2 else 'signals'} of {bound}{sides}"


class ImageClassifier(nn.Module):
    """A network that maps images, float (n, c, h, w), or signals, (n, c, length), to logits.

    The logits are (n, num_classes); while it trains, a network with auxiliary classifiers returns
    `WithAuxiliary`.
    """

    input_shape: ClassVar[InputShape]
    # How many classes the published network tells apart; it is built for any number.
    published_classes: ClassVar[int] = 1000
    # Whether `recompute` may be set: to compute activations again in the backward pass, in place
    # of keeping them. The same numbers in less memory, and more time.
    can_recompute: ClassVar[bool] = False
    recompute: bool = False
    # The likely cause of a loss that doesn't fall, and the remedy; shown to the user.
    flat_loss_hint: str = (
        "try another optimizer.learning_rate, or set network.initialization: glorot"
    )

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Take over trained weights of the same network, every one by its name.

        Raises `UserError`, and changes nothing, where a layer is missing or has another shape.
        """
        own = self.state_dict()
        for name in sorted(own.keys() ^ weights.keys()):
            difference = "hold" if name in weights else "lack"
            raise UserError(f"weights to start from: they {difference} {name}, unlike this network")
        refuse_other_shapes(own, weights)
        self.load_state_dict(weights)


def refuse_other_shapes(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Raise `UserError` that names the first of the `weights` whose shape is not that of `own`."""
    for name, value in weights.items():
        theirs, ours = tuple(value.shape), tuple(own[name].shape)
        if theirs != ours:
            raise UserError(
                f"weights to start from: {name} is {theirs}, in the network to train {ours}; train "
                "on the same classes and channels"
            )


Model = TypeVar("Model", bound=nn.Module)


def to_device(model: Model, device: torch.device, *, channels_last: bool) -> Model:
    """Return `model` on the device, its weights laid out as the images there are."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return model.to(device, memory_format=layout)  # type: ignore[call-overload]


@contextmanager
def modes_restored(model: nn.Module) -> Iterator[None]:
    """Put every module of `model` back into training or evaluation mode at the end, as it was."""
    training = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, was_training in training.items():
            module.training = was_training


class WithAuxiliary(NamedTuple):
    """The logits of a network and of its auxiliary classifiers, all (n, num_classes)."""

    logits: Tensor
    auxiliary: tuple[Tensor, ...]
