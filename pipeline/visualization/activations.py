"""Which images, and where in them, excite the units of a layer most."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.data.loading.loader import Batch


@dataclass(frozen=True)
class Activation:
    """A value of a unit: in which image of the split, at which position, (y, x), of its map.

    The position is empty for a layer without maps.
    """

    image: int
    value: float
    position: tuple[int, ...]


def maps_of(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """Run `model` on `images`; return what `layer` puts out, (n, units, h, w) or (n, units).

    Of a layer that is called several times, as the ReLU of a residual block, it is the last time.
    """
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        # What follows may overwrite it in place.
        found.append(output.clone())

    handle = model.get_submodule(layer).register_forward_hook(keep)
    try:
        model(images)
    finally:
        handle.remove()
    return found[-1]


@torch.no_grad()
def strongest(
    model: nn.Module, layer: str, batches: Iterable[Batch], count: int = 9
) -> list[list[Activation]]:
    """Return for each unit of `layer` the strongest activation in each of the `count` images that
    excite it most, strongest first.

    One position counts for an image, as in Zeiler & Fergus. The model must be in `eval` mode.
    """
    values = images = places = torch.empty(0)
    shape: tuple[int, ...] = ()
    for batch in batches:
        maps = maps_of(model, layer, batch.images).float()
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
