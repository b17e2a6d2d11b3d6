"""The parts of a pass whose micro-batches, the groups, are of one size."""

from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor

from pipeline.data.loading.loader import Batch


@dataclass(frozen=True)
class EvenPart:
    """Some micro-batches of a pass, of equal size, one after another.

    images, labels, keys: as in `Batch`. micro_batches: their numbers in the step.
    """

    images: Tensor
    labels: Tensor
    keys: Tensor
    micro_batches: tuple[int, ...]

    @property
    def num_groups(self) -> int:
        return len(self.micro_batches)


def even_parts(batch: Batch) -> list[EvenPart]:
    """Cut `batch` where the size of its micro-batches changes.

    Sizes differ by one where the images of a step don't divide evenly, and by more where damaged
    images were left out.
    """
    numbers, sizes = torch.unique_consecutive(batch.micro_batches, return_counts=True)
    parts = []
    start = 0
    for size, run in groupby(zip(numbers.tolist(), sizes.tolist(), strict=True), key=itemgetter(1)):
        micro_batches = tuple(number for number, _ in run)
        rows = slice(start, start + size * len(micro_batches))
        parts.append(
            EvenPart(batch.images[rows], batch.labels[rows], batch.keys[rows], micro_batches)
        )
        start = rows.stop
    return parts
