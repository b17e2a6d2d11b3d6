"""The order of an epoch, and how its images are split into batches and among the workers.

The order belongs to the epoch, not to the workers: 1, 2, 4 or 8 workers compute the same optimizer
steps, and the whole state of loading is (epoch, step).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config.recipe import BatchConfig
from pipeline.data.loading.philox import sort_keys
from pipeline.runtime.errors import UserError


def epoch_order(seed: int, epoch: int, num_images: int) -> NDArray[np.int64]:
    """Return the epoch's permutation of `0..num_images - 1`, int64 (num_images,).

    A stable sort of Philox keys, so that it depends on no library's own way of shuffling.
    """
    return np.argsort(sort_keys(seed, epoch, num_images), kind="stable")


@dataclass(frozen=True)
class TrainingPass:
    """The images of a step that a worker computes at once: one or more whole micro-batches.

    images: int64 (n,). micro_batches: int64 (n,), in rising order, the number of each image's
    micro-batch among all of the step.
    """

    images: NDArray[np.int64]
    micro_batches: NDArray[np.int64]


@dataclass(frozen=True)
class BatchSampler:
    """Splits an epoch's images into global batches, micro-batches, workers' shares and passes.

    Every split is even: sizes differ by at most one, as `numpy.array_split`. So every image is used
    exactly once an epoch, and no batch is tiny. Where the workers don't divide the micro-batches of
    a step, some of them compute one more than others. Raises `UserError` where some micro-batch or
    worker would have nothing.

    A worker computes `micro_batches_at_once` of its micro-batches in one pass; the result is that
    of one after another.
    """

    num_images: int
    global_batch_size: int
    num_micro_batches: int
    world_size: int
    micro_batches_at_once: int = 1

    @staticmethod
    def of(
        batch: BatchConfig, num_images: int, world_size: int, micro_batches_at_once: int = 1
    ) -> "BatchSampler":
        """Return the sampler of a recipe's `batch`."""
        return BatchSampler(
            num_images,
            batch.global_batch_size,
            batch.num_micro_batches,
            world_size,
            micro_batches_at_once,
        )

    def __post_init__(self) -> None:
        if self.num_micro_batches < self.world_size:
            enough = -(-self.global_batch_size // self.num_micro_batches) * self.world_size
            raise UserError(
                f"batch: {self.num_micro_batches} micro-batches a step are too few for "
                f"{self.world_size} workers: use {self.num_micro_batches} at most, or "
                f"batch.global_batch_size={enough} with a learning rate of its own; a lower "
                "batch.micro_batch_size changes what batch norm sees"
            )
        if self.num_images < self.num_micro_batches:
            raise UserError(
                f"batch: {self.num_images} images can't fill {self.num_micro_batches} "
                "micro-batches a step; lower batch.global_batch_size"
            )
        if self.num_images // self.num_steps < self.num_micro_batches:
            raise UserError(
                f"batch: {self.num_images} images in {self.num_steps} even steps can't fill "
                f"{self.num_micro_batches} micro-batches a step; raise batch.micro_batch_size"
            )

    @property
    def num_steps(self) -> int:
        """Optimizer steps in an epoch."""
        return -(-self.num_images // self.global_batch_size)

    def share(self, rank: int) -> range:
        """Return which of the micro-batches of a step worker `rank` computes."""
        each, remainder = divmod(self.num_micro_batches, self.world_size)
        start = rank * each + min(rank, remainder)
        return range(start, start + each + (rank < remainder))

    @property
    def max_micro_batch_size(self) -> int:
        """Images in the largest micro-batch of the epoch."""
        return -(-self.batch_size(0) // self.num_micro_batches)

    def micro_batches_in_pass(self, rank: int) -> int:
        """Return how many micro-batches the largest pass of worker `rank` holds."""
        return min(self.micro_batches_at_once, len(self.share(rank)))

    @property
    def max_pass_size(self) -> int:
        """Images in the largest pass of the epoch."""
        return self.max_micro_batch_size * self.micro_batches_in_pass(0)

    def num_passes(self, rank: int) -> int:
        """Return how many passes worker `rank` computes in a step."""
        return -(-len(self.share(rank)) // self.micro_batches_at_once)

    def batch_size(self, step: int) -> int:
        """Return the number of images in global batch `step`, all workers together."""
        return self.images_before(step + 1) - self.images_before(step)

    def micro_batches(
        self, order: NDArray[np.int64], step: int, rank: int
    ) -> list[NDArray[np.int64]]:
        """Return the micro-batches of global batch `step` that worker `rank` computes."""
        batch = order[self.images_before(step) : self.images_before(step + 1)]
        share = self.share(rank)
        return np.array_split(batch, self.num_micro_batches)[share.start : share.stop]

    def passes(self, order: NDArray[np.int64], step: int, rank: int) -> list[TrainingPass]:
        """Return the same micro-batches by the passes in which they are computed."""
        micro_batches = self.micro_batches(order, step, rank)
        numbers, at_once = self.share(rank), self.micro_batches_at_once
        return [
            TrainingPass(
                np.concatenate(together := micro_batches[start : start + at_once]),
                np.repeat(numbers[start : start + at_once], [len(images) for images in together]),
            )
            for start in range(0, len(micro_batches), at_once)
        ]

    def sample_batches(self, num_samples: int, rank: int) -> list[NDArray[np.int64]]:
        """Return worker `rank`'s share of the first `num_samples` places of an epoch's order.

        In batches no larger than micro-batches; more samples than images are all images.
        """
        places = np.arange(min(num_samples, self.num_images))
        share, size = np.array_split(places, self.world_size)[rank], self.max_micro_batch_size
        return [share[start : start + size] for start in range(0, len(share), size)]

    def images_before(self, step: int) -> int:
        """Return the number of images in the global batches before `step` of an epoch."""
        size, remainder = divmod(self.num_images, self.num_steps)
        return step * size + min(step, remainder)
