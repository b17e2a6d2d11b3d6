"""The memory that loading takes, of the host and of a GPU."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config.cluster import LoadingConfig
from pipeline.config.recipe import InputConfig
from pipeline.data.loading.device_memory import MAX_QUEUED

# What the GPU's decoder may preallocate, in bytes: an A100 has 40 GB, and larger images than it is
# for are decoded all the same, after an allocation.
MAX_PREALLOCATED = 2**30
_PREALLOCATED_SHARE = 0.999  # of the images, by height and by width

# Bytes a thread of DALI's GPU decoder allocates: `device_memory_padding`, and for double buffering
# twice `host_memory_padding`.
_DEVICE_PADDING, _HOST_PADDING = 16 * 2**20, 2 * 8 * 2**20


@dataclass(frozen=True)
class LoadingMemory:
    """Bytes that a worker's loader takes at most; `gpu` is 0 for workers on CPUs."""

    host: float
    gpu: float


def loading_memory(
    input: InputConfig, loading: LoadingConfig, batch_size: int, *, on_gpu: bool
) -> LoadingMemory:
    """Return the memory for loading batches of `batch_size` images, or windows of them."""
    pixels = input.size**input.dimensions * input.num_channels
    window = 4.0 * pixels * max(batch_size, loading.window)  # as float32
    # Those that DALI loads, the one ready in the thread ahead, and the one in use.
    num_windows = loading.prefetch + 2
    decoded = num_windows * window  # before it is resized: about as large
    if not on_gpu:
        return LoadingMemory(num_windows * window + decoded, 0)
    shown = (num_windows + MAX_QUEUED) * window
    if loading.decoder == "cpu":
        return LoadingMemory(decoded, shown + decoded)
    decoder = MAX_PREALLOCATED + loading.threads * _DEVICE_PADDING
    return LoadingMemory(loading.threads * _HOST_PADDING, shown + decoded + decoder)


def size_to_preallocate(sizes: NDArray[np.integer], batch_size: int) -> tuple[int, int]:
    """Return the height and width for which the GPU's decoder allocates memory at first.

    sizes: (n, 2), height and width of all images. All but one in a thousand are no larger; less
    where `batch_size` RGB images of that size would exceed `MAX_PREALLOCATED`.
    """
    largest = np.quantile(sizes, _PREALLOCATED_SHARE, axis=0, method="higher").astype(np.float64)
    scale = min(1.0, (MAX_PREALLOCATED / (3 * batch_size * largest.prod())) ** 0.5)
    height, width = np.maximum(1, largest * scale).astype(int).tolist()
    return height, width
