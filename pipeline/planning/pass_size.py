"""How many micro-batches a worker computes at once, where the cluster doesn't say."""

import torch

from pipeline.config.cluster import ComputeConfig
from pipeline.config.recipe import Recipe
from pipeline.planning.workload import training_memory

# Of a GPU's memory: the rest is for the loader, kernels' workspaces and fragments.
_SHARE_TO_FILL = 0.6
# A GPU is busy with so many; more only take memory.
_ENOUGH_IMAGES = 256


def gpu_memory(device: torch.device) -> int | None:
    """Return the bytes that `device` has, if it is a GPU."""
    if device.type != "cuda":
        return None
    return torch.cuda.get_device_properties(device).total_memory


def fewest_at_once(recipe: Recipe, compute: ComputeConfig) -> int:
    """Return how many micro-batches a worker computes at once at least, on any device."""
    at_once = micro_batches_at_once(recipe, compute, memory=None)
    return min(at_once, recipe.batch.num_micro_batches)


def most_images_at_once(recipe: Recipe, compute: ComputeConfig, *, on_gpu: bool) -> int:
    """Return how many images a worker's passes may hold, whatever memory its device has."""
    batch = recipe.batch
    if compute.images_at_once is not None:
        return max(batch.micro_batch_size, compute.images_at_once)
    most = _ENOUGH_IMAGES // batch.micro_batch_size if on_gpu else 1
    return batch.micro_batch_size * max(1, min(most, batch.num_micro_batches))


def micro_batches_at_once(recipe: Recipe, compute: ComputeConfig, memory: float | None) -> int:
    """Return how many whole micro-batches `compute.images_at_once` holds, at least one.

    Left out, it is as many as fit a GPU's `memory` in bytes, up to 256 images; on a CPU, for which
    `memory` is None, one.
    """
    size = recipe.batch.micro_batch_size
    if compute.images_at_once is not None:
        return max(1, compute.images_at_once // size)
    if memory is None:
        return 1
    needed = training_memory(recipe)
    free = _SHARE_TO_FILL * memory - needed.state
    return max(1, min(int(free // needed.micro_batch), _ENOUGH_IMAGES // size))
