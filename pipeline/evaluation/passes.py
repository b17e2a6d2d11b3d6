"""A protocol as passes over a worker's share of a split: the views of each, and its weight."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import assert_never

from pipeline.config.protocol import BoxProtocol, Dense, DenseAndCrops
from pipeline.data.loading.plans import (
    dense_images_per_batch,
    dense_plan,
    evaluation_plan,
    images_per_batch,
)
from pipeline.data.loading.views import Views, shifted
from pipeline.evaluation.evaluation_config import EvaluationConfig
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


def passes(config: EvaluationConfig, worker: Worker) -> list[Pass]:
    """Return the passes of `worker`: one for all crops, and one for each side of a dense protocol.

    A network takes about `evaluation_batch_size` images of its input size at once.
    """
    if isinstance(config.protocol, BoxProtocol):
        return [_crops_pass(config.protocol, config, worker)]
    match config.protocol:
        case Dense():
            return _dense_passes(config.protocol, config, worker)
        case DenseAndCrops(dense=dense, crops=crops):
            halves = [*_dense_passes(dense, config, worker), _crops_pass(crops, config, worker)]
            return [replace(half, weight=half.weight / 2) for half in halves]
        case _:
            assert_never(config.protocol)


def _crops_pass(protocol: BoxProtocol, config: EvaluationConfig, worker: Worker) -> Pass:
    size, batch_size = config.input.size, config.loading.evaluation_batch_size
    views = evaluation_plan(
        protocol,
        size,
        config.split,
        worker.rank,
        worker.world_size,
        batch_size,
        config.input.interpolation,
    )
    return Pass(
        views=map(partial(shifted, by=config.shift), views) if config.shift else views,
        max_images=images_per_batch(protocol, batch_size),
        boxes_per_image=protocol.num_boxes,
        flip=protocol.flip,
    )


def _dense_passes(protocol: Dense, config: EvaluationConfig, worker: Worker) -> list[Pass]:
    size, batch_size = config.input.size, config.loading.evaluation_batch_size
    return [
        Pass(
            views=dense_plan(side, size, config.split, worker.rank, worker.world_size, batch_size),
            max_images=dense_images_per_batch(side * side, size, batch_size),
            flip=protocol.flip,
            is_dense=True,
            weight=1 / len(protocol.resize),
        )
        for side in protocol.resize
    ]
