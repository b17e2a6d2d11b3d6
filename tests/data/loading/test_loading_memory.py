"""Loading fits into the memory that is counted for it."""

import numpy as np
import pytest

from pipeline.config.cluster import LoadingConfig
from pipeline.config.recipe import InputConfig
from pipeline.data.loading.loading_memory import (
    MAX_PREALLOCATED,
    loading_memory,
    size_to_preallocate,
)

INPUT = InputConfig(size=224, mean=(0, 0, 0), std=(1, 1, 1))
FLOATS = 4 * 3 * 224 * 224 * 100  # bytes of a batch of 100
MIB = 2**20


def test_the_decoder_preallocates_for_all_but_a_few_images() -> None:
    sizes = np.tile([[375, 500]], (5000, 1)).astype(np.int32)
    sizes[:4] = (9000, 60)  # rarer than one in a thousand
    sizes[4:10] = (60, 8000)  # not so rare
    assert size_to_preallocate(sizes, 1) == (375, 8000)


@pytest.mark.parametrize("batch_size", [1, 32, 256, 100_000])
def test_what_it_preallocates_is_bounded(batch_size: int) -> None:
    height, width = size_to_preallocate(np.full((10, 2), (3000, 4000), np.int32), batch_size)
    assert 3 * batch_size * height * width <= MAX_PREALLOCATED
    if batch_size == 1:
        assert (height, width) == (3000, 4000)
    else:
        assert width / height == pytest.approx(4 / 3, rel=0.02)
        assert 3 * batch_size * height * width > 0.9 * MAX_PREALLOCATED


def test_memory_is_where_the_images_are() -> None:
    loading = LoadingConfig(threads=8, prefetch=3)
    on_cpu = loading_memory(INPUT, loading, 100, on_gpu=False)
    assert (on_cpu.host, on_cpu.gpu) == (2 * 5 * FLOATS, 0)
    on_gpu = loading_memory(INPUT, loading, 100, on_gpu=True)
    assert on_gpu.gpu == (2 * 5 + 2) * FLOATS + MAX_PREALLOCATED + 8 * 16 * MIB
    assert on_gpu.host == 8 * 16 * MIB
    mixed = loading_memory(INPUT, loading.model_copy(update={"decoder": "cpu"}), 100, on_gpu=True)
    assert (mixed.host, mixed.gpu) == (5 * FLOATS, (2 * 5 + 2) * FLOATS)


def test_small_batches_are_loaded_in_windows() -> None:
    loading = LoadingConfig(window=100)
    small = loading_memory(INPUT, loading, 4, on_gpu=False)
    assert small == loading_memory(INPUT, loading, 100, on_gpu=False)
