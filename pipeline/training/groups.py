"""The parts of a pass whose micro-batches, the groups, are of one size."""

from dataclasses import dataclass

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
    parts: list[EvenPart] = []
    start = 0
    for size, count in zip(*torch.unique_consecutive(sizes, return_counts=True), strict=True):
        first = sum(part.num_groups for part in parts)
        rows = slice(start, start + int(size * count))
        parts.append(
            EvenPart(
                batch.images[rows],
                batch.labels[rows],
                batch.keys[rows],
                tuple(numbers[first : first + int(count)].tolist()),
            )
        )
        start = rows.stop
    return parts
