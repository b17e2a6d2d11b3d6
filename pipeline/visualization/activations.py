"""The images, and the positions in them, with the strongest activations of a layer's units."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.data.loading.loader import Batch


@dataclass(frozen=True)
class Activation:
    """A unit's value in an image of the split, at a position, (y, x), of its map.

    The position is empty for a layer without maps.
    """

    image: int
    value: float
    position: tuple[int, ...]


def layer_output(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """Run `model` on `images`; return the output of `layer`, (n, units, h, w) or (n, units).

    If a layer is called several times, as the ReLU of a residual block, it is the last output.
    """
    outputs: list[Tensor] = []

    def store(module: nn.Module, inputs: object, output: Tensor) -> None:
        # The next layer may overwrite it in place.
        outputs.append(output.clone())

    handle = model.get_submodule(layer).register_forward_hook(store)
    try:
        model(images)
    finally:
        handle.remove()
    return outputs[-1]


@torch.no_grad()
def strongest_activations(
    model: nn.Module, layer: str, batches: Iterable[Batch], count: int = 9
) -> list[list[Activation]]:
    """Return for each unit of `layer` its `count` strongest activations, strongest first.

    Each image counts with one position, as in Zeiler & Fergus. The model must be in `eval` mode.
    """
    values = images = places = torch.empty(0)
    shape: tuple[int, ...] = ()
    for batch in batches:
        maps = layer_output(model, layer, batch.images).float()
        shape = tuple(maps.shape[2:])
        found, place = maps.flatten(2).max(dim=2) if shape else (maps, torch.zeros_like(maps))
        image = batch.indices.to(found.device)[:, None].expand_as(found)
        if len(values):
            found, place, image = (
                torch.cat([before, new])
                for before, new in ((values, found), (places, place), (images, image))
            )
        values, order = found.topk(min(count, len(found)), dim=0)
        places, images = place.gather(0, order), image.gather(0, order)
    return [
        [
            Activation(int(image), float(value), _position(int(place), shape))
            for value, image, place in zip(*columns, strict=True)
        ]
        for columns in zip(values.T.tolist(), images.T.tolist(), places.T.tolist(), strict=True)
    ]


def _position(place: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (place // shape[1], place % shape[1]) if shape else ()
