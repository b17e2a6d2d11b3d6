"""A protocol as passes over a worker's share of a split: the views of each, and its weight."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_never

from pipeline.config.protocol import (
    CenterCrop,
    Crops,
    Dense,
    DenseAndCrops,
    TestProtocol,
    WholeImage,
)
from pipeline.data.loading.loader import (
    dense_images_a_batch,
    dense_plan,
    evaluation_plan,
    images_a_batch,
)
from pipeline.data.loading.views import Views
from pipeline.data.store.store import Split
from pipeline.runtime.distributed import Worker


@dataclass(frozen=True)
class Pass:
    """One pass over the share, in which every image is decoded once.

    Its views come in batches of at most `max_images` images, `boxes_per_image` of each; with `flip`
    the network is given every view mirrored as well. `is_dense` means whole images and the network
    made fully convolutional. `weight` is the pass's share of the average over all.
    """

    views: Iterator[Views]
    max_images: int
    boxes_per_image: int = 1
    flip: bool = False
    is_dense: bool = False
    weight: float = 1.0


def passes(
    protocol: TestProtocol, size: int, split: Split, worker: Worker, batch_size: int
) -> list[Pass]:
    """Return the passes of `worker` for `protocol` at input `size`.

    A network takes about `batch_size` images of `size` at once. All crops take one pass, each side
    of a dense protocol its own.
    """
    match protocol:
        case WholeImage() | CenterCrop() | Crops():
            return [_crops_pass(protocol, size, split, worker, batch_size)]
        case Dense():
            return _dense_passes(protocol, size, split, worker, batch_size)
        case DenseAndCrops(dense=dense, crops=crops):
            sides = _dense_passes(dense, size, split, worker, batch_size, total_weight=0.5)
            return [*sides, _crops_pass(crops, size, split, worker, batch_size, weight=0.5)]
        case _:
            assert_never(protocol)


def _crops_pass(
    protocol: WholeImage | CenterCrop | Crops,
    size: int,
    split: Split,
    worker: Worker,
    batch_size: int,
    weight: float = 1.0,
) -> Pass:
    return Pass(
        views=evaluation_plan(protocol, size, split, worker.rank, worker.world_size, batch_size),
        max_images=images_a_batch(protocol, batch_size),
        boxes_per_image=protocol.num_boxes if isinstance(protocol, Crops) else 1,
        flip=not isinstance(protocol, WholeImage) and protocol.flip,
        weight=weight,
    )


def _dense_passes(
    protocol: Dense,
    size: int,
    split: Split,
    worker: Worker,
    batch_size: int,
    total_weight: float = 1.0,
) -> list[Pass]:
    return [
        Pass(
            views=dense_plan(side, size, split, worker.rank, worker.world_size, batch_size),
            max_images=dense_images_a_batch(side * side, size, batch_size),
            flip=protocol.flip,
            is_dense=True,
            weight=total_weight / len(protocol.resize),
        )
        for side in protocol.resize
    ]
