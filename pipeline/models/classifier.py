"""The base class of every network of the zoo: images in, logits out, and its accepted inputs."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from pipeline.runtime.errors import UserError


@dataclass(frozen=True)
class InputShape:
    """The inputs that a network accepts: square images, or 1-D signals where `dimensions` is 1.

    `num_channels` and `size` are the published ones; a network is built for any number of channels
    and accepts every side from `min_size` to `max_size` (`None`: no upper bound).
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

    def accepts(self, size: int, dimensions: int = 2) -> bool:
        fits = size >= self.min_size and (self.max_size is None or size <= self.max_size)
        return fits and dimensions == self.dimensions

    def __str__(self) -> str:
        sides = "×".join([str(self.min_size)] * self.dimensions)
        bound = "" if self.max_size == self.min_size else "at least "
        if self.max_size not in (self.min_size, None):
            bound, sides = "", f"{sides} to {'×'.join([str(self.max_size)] * self.dimensions)}"
        return f"{'images' if self.dimensions == 2 else 'signals'} of {bound}{sides}"


@dataclass(frozen=True)
class StartingLayers:
    """The layers that took over trained weights, and those that keep their initial ones, in order.

    A stage is named in place of its layers where all of them are alike.
    """

    loaded: tuple[str, ...]
    new: tuple[str, ...]


class ImageClassifier(nn.Module):
    """A network that maps images, float (n, c, h, w), or signals, (n, c, length), to logits.

    The logits are (n, num_classes); in training mode, a network with auxiliary classifiers returns
    `WithAuxiliary`.
    """

    input_shape: ClassVar[InputShape]
    # The number of classes of the published network; it is built for any number.
    published_classes: ClassVar[int] = 1000
    # The layers whose shapes depend on the number of classes: the last one, and the last of each
    # auxiliary classifier.
    head: tuple[str, ...]
    # Whether `recompute` may be set: it computes activations again in the backward pass instead of
    # storing them. The results are the same, for less memory and more time.
    can_recompute: ClassVar[bool] = False
    recompute: bool = False
    # The likely cause of a loss that doesn't fall, and the remedy; shown to the user.
    flat_loss_hint: str = (
        "try another optimizer.learning_rate, or set network.initialization: glorot"
    )

    def is_of_head(self, name: str) -> bool:
        """Return whether a layer, or a value of the state dict, belongs to the head."""
        return any(is_within(name, layer) for layer in self.head)

    def start_from(
        self, weights: Mapping[str, Tensor], *, new_head: bool = False
    ) -> StartingLayers:
        """Load trained weights of the same network, matched by name.

        With `new_head` the head keeps its initial values, and the weights may be for any number of
        classes. Raises `UserError`, and changes nothing, if a layer is missing or has another
        shape.
        """
        own, taken = self.state_dict(), self.taken_from(weights)
        if new_head:
            taken = {name: value for name, value in taken.items() if not self.is_of_head(name)}
        for name, value in taken.items():
            theirs, ours = tuple(value.shape), tuple(own[name].shape)
            if theirs != ours:
                what = "classes, or give --new-head" if self.is_of_head(name) else "channels"
                raise UserError(
                    f"weights to start from: {name} is {theirs}, in the network to train {ours}; "
                    f"train on the same {what}"
                )
        self.load_state_dict(own | dict(taken))
        loaded = _layers_of(name for name in own if name in taken)
        new = _layers_of(name for name in own if name not in taken)
        return StartingLayers(outline(loaded, new), outline(new, loaded))

    def taken_from(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return what of trained weights this network starts from: all of them.

        Raises `UserError` where a name of these is missing here, or the other way round.
        """
        for name in sorted(self.state_dict().keys() ^ weights.keys()):
            difference = "hold" if name in weights else "lack"
            raise UserError(f"weights to start from: they {difference} {name}, unlike this network")
        return weights


def _layers_of(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


def is_within(name: str, module: str) -> bool:
    """Return whether `name` is that of `module`, or of a part of it."""
    return f"{name}.".startswith(f"{module}.")


def outline(layers: Collection[str], others: Collection[str]) -> tuple[str, ...]:
    """Return the fewest names of modules that hold all of `layers` and none of `others`."""

    def largest(layer: str) -> str:
        modules = accumulate(layer.split("."), "{}.{}".format)
        return next(m for m in modules if not any(is_within(other, m) for other in others))

    return tuple(dict.fromkeys(map(largest, layers)))


Model = TypeVar("Model", bound=nn.Module)


def to_device(model: Model, device: torch.device, *, channels_last: bool) -> Model:
    """Return `model` on `device`, with the memory format of the images there."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return model.to(device, memory_format=layout)  # type: ignore[call-overload]


@contextmanager
def modes_restored(model: nn.Module) -> Iterator[None]:
    """Restore the training or evaluation mode of every module of `model` on exit."""
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
