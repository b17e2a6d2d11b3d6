"""Running statistics that do not depend on the number of workers."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evenly_weighted(model: nn.Module, number: int, count: int) -> Iterator[None]:
    """Have micro-batch `number` of the `count` of a step weigh as much as every other.

    A layer's momentum m is meant for a whole step. Plain use would apply it once for each
    micro-batch that a worker computes: 8 times on one worker, once on each of eight. Inside this
    context the momenta are such that `count` updates in a row give
    `(1 - m) · before + m · mean over the micro-batches`; the mean over workers then completes it.
    """
    layers = [
        (layer, layer.momentum)
        for layer in model.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.momentum is not None
    ]
    for layer, momentum in layers:
        later = count - 1 - number
        layer.momentum = (momentum / count) / (1 - momentum * later / count)
    try:
        yield
    finally:
        for layer, momentum in layers:
            layer.momentum = momentum
