"""Running statistics of batch normalization that do not depend on the number of workers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.runtime.distributed import Worker, sum_over_workers


@contextmanager
def equal_weight(model: nn.Module, index: int, count: int) -> Iterator[None]:
    """Give micro-batch `index` of the `count` of a step the same weight as every other.

    A layer's momentum m is meant for a whole step. Plain use would apply it once for each
    micro-batch that a worker computes: 8 times on one worker, once on each of eight. Inside this
    context the momenta are such that `count` updates in a row give
    `(1 - m) · before + m · mean over the micro-batches`; `average_statistics` then completes it.
    """
    layers = [(layer, layer.momentum) for layer in _layers(model) if layer.momentum is not None]
    for layer, momentum in layers:
        later = count - 1 - index
        layer.momentum = (momentum / count) / (1 - momentum * later / count)
    try:
        yield
    finally:
        for layer, momentum in layers:
            layer.momentum = momentum


def average_statistics(model: nn.Module, weight: float, worker: Worker) -> None:
    """Give every worker the weighted mean of all workers' running statistics. A collective call.

    `weight` is this worker's share of the micro-batches since the last call. Called after every
    step, so that a checkpoint holds the statistics of all micro-batches.
    """
    statistics = [
        values
        for layer in _layers(model)
        for values in (layer.running_mean, layer.running_var)
        if values is not None
    ]
    if worker.world_size == 1 or not statistics:
        return
    flat = sum_over_workers(torch.cat(statistics) * weight, worker)
    sizes = [len(values) for values in statistics]
    for values, mean in zip(statistics, flat.split(sizes), strict=True):
        values.copy_(mean)


def _layers(model: nn.Module) -> list[_BatchNorm]:
    return [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
