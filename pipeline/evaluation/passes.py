"""A protocol as passes over a worker's share of a split: what each shows, how much it counts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_never

from pipeline.config.protocol import BoxProtocol, Dense, DenseAndCrops, TestProtocol
from pipeline.data.loading.plans import (
    dense_images_per_batch,
    dense_plan,
    evaluation_plan,
    images_per_batch,
)
from pipeline.data.loading.views import Views
from pipeline.data.store.store import Split


@dataclass(frozen=True)
class Pass:
    """One time through the share; every image is decoded once in it.

    Its views come in batches of at most `max_images` images, `boxes_per_image` of each; with `flip`
    the network sees every view mirrored as well. `is_dense` is for whole images and the network
    made fully convolutional. `weight` is the pass's share of the average over all.
    """

    views: Iterator[Views]
    max_images: int
    boxes_per_image: int = 1
    flip: bool = False
    is_dense: bool = False
    weight: float = 1.0


def passes(
    protocol: TestProtocol, size: int, split: Split, rank: int, world_size: int, batch_size: int
) -> list[Pass]:
    """Return what `protocol` at input `size` has worker `rank` do.

    A network sees about `batch_size` images of `size` at once. All crops take one pass, each side
    of a dense protocol its own.
    """
    dealt = (split, rank, world_size, batch_size)
    if isinstance(protocol, BoxProtocol):
        return [_of_boxes(protocol, size, *dealt)]
    match protocol:
        case Dense():
            return _of_sides(protocol, size, *dealt)
        case DenseAndCrops(dense=dense, crops=crops):
            sides = _of_sides(dense, size, *dealt, total_weight=0.5)
            return [*sides, _of_boxes(crops, size, *dealt, weight=0.5)]
        case _:
            assert_never(protocol)


def _of_boxes(
    protocol: BoxProtocol,
    size: int,
    split: Split,
    rank: int,
    world_size: int,
    batch_size: int,
    weight: float = 1.0,
) -> Pass:
    return Pass(
        views=evaluation_plan(protocol, size, split, rank, world_size, batch_size),
        max_images=images_per_batch(protocol, batch_size),
        boxes_per_image=protocol.num_boxes,
        flip=protocol.flip,
        weight=weight,
    )


def _of_sides(
    protocol: Dense,
    size: int,
    split: Split,
    rank: int,
    world_size: int,
    batch_size: int,
    total_weight: float = 1.0,
) -> list[Pass]:
    return [
        Pass(
            views=dense_plan(side, size, split, rank, world_size, batch_size),
            max_images=dense_images_per_batch(side * side, size, batch_size),
            flip=protocol.flip,
            is_dense=True,
            weight=total_weight / len(protocol.resize),
        )
        for side in protocol.resize
    ]
