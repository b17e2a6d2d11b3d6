"""The order belongs to the epoch: any number of workers takes the same optimizer steps."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.data.loading.sampler import BatchSampler, epoch_order
from pipeline.runtime.errors import UserError

WORLD_SIZES = (1, 2, 3, 4, 8)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 1000), num_images=st.integers(1, 500))
def test_an_order_is_a_permutation(seed: int, epoch: int, num_images: int) -> None:
    order = epoch_order(seed, epoch, num_images)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(num_images))


def test_the_order_of_a_seed_never_changes() -> None:
    """Pinned: with another order here, old runs could not be resumed or repeated."""
    assert epoch_order(0, 0, 10).tolist() == [4, 8, 5, 0, 3, 9, 6, 7, 2, 1]


def test_epochs_and_seeds_have_different_orders() -> None:
    orders = [epoch_order(seed, epoch, 1000) for seed in (0, 1) for epoch in (0, 1)]
    for i, first in enumerate(orders):
        for second in orders[:i]:
            # Two random permutations agree in one place on average.
            assert (first == second).sum() < 10
            assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(1000)


@st.composite
def batches(draw: st.DrawFn) -> tuple[int, int, int]:
    """Draw images, global batch size and micro-batches that any of `WORLD_SIZES` can share."""
    num_micro_batches = 24 * draw(st.integers(1, 2))
    global_batch_size = num_micro_batches * draw(st.integers(1, 4))
    num_images = draw(st.integers(num_micro_batches, 600))
    num_steps = -(-num_images // global_batch_size)
    assume(num_images // num_steps >= num_micro_batches)
    return num_images, global_batch_size, num_micro_batches


def epoch_of(sampler: BatchSampler, order: NDArray[np.int64]) -> list[list[list[int]]]:
    """Return each step's micro-batches of all workers, in the order of the ranks."""
    return [
        [
            micro_batch.tolist()
            for rank in range(sampler.world_size)
            for micro_batch in sampler.micro_batches(order, step, rank)
        ]
        for step in range(sampler.num_steps)
    ]


@settings(max_examples=50)
@given(batches())
def test_any_number_of_workers_takes_the_same_steps(batch: tuple[int, int, int]) -> None:
    order = epoch_order(1, 2, batch[0])
    alone = epoch_of(BatchSampler(*batch, world_size=1), order)
    for world_size in WORLD_SIZES[1:]:
        assert epoch_of(BatchSampler(*batch, world_size=world_size), order) == alone


@settings(max_examples=50)
@given(batches())
def test_an_epoch_is_split_evenly_and_holds_every_image_once(batch: tuple[int, int, int]) -> None:
    num_images, global_batch_size, num_micro_batches = batch
    sampler = BatchSampler(*batch, world_size=2)
    order = epoch_order(3, 0, num_images)
    steps = epoch_of(sampler, order)
    assert [image for step in steps for part in step for image in part] == order.tolist()

    batch_sizes = [sum(map(len, step)) for step in steps]
    assert batch_sizes == [sampler.batch_size(step) for step in range(sampler.num_steps)]
    assert batch_sizes == [len(part) for part in np.array_split(order, sampler.num_steps)]
    assert max(batch_sizes) <= global_batch_size
    for step in steps:
        assert len(step) == num_micro_batches
        assert max(map(len, step)) - min(map(len, step)) <= 1
    micro_batch_sizes = [len(part) for step in steps for part in step]
    assert min(micro_batch_sizes) > 0
    assert max(micro_batch_sizes) == sampler.max_micro_batch_size


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            (100, 32, 4, 5),
            "4 micro-batches a step are too few for 5 workers: use 4 at most, or "
            "batch.global_batch_size=40 with a learning rate of its own; a lower "
            "batch.micro_batch_size changes what batch norm sees",
        ),
        ((3, 32, 4, 1), "3 images can't fill 4 micro-batches"),
        ((9, 8, 8, 1), "9 images in 2 even steps can't fill 8 micro-batches"),
    ],
)
def test_batches_that_leave_a_worker_or_micro_batch_empty_are_refused(
    sizes: tuple[int, int, int, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        BatchSampler(*sizes)
