"""How many micro-batches are computed at once."""

import pytest

from pipeline.config.cluster import ComputeConfig
from pipeline.config.recipe import load_recipe
from pipeline.planning.pass_size import micro_batches_at_once, most_images_at_once
from pipeline.planning.workload import training_bytes

RESNET50 = load_recipe("resnet50", ["precision=float32"])  # micro-batches of 32


@pytest.mark.parametrize(("images", "expected"), [(1, 1), (32, 1), (63, 1), (64, 2), (300, 9)])
def test_a_number_of_images_is_rounded_down_to_whole_micro_batches(
    images: int, expected: int
) -> None:
    compute = ComputeConfig(images_at_once=images)
    assert micro_batches_at_once(RESNET50, compute, memory=1e9) == expected


def test_a_cpu_computes_one_micro_batch_after_another() -> None:
    assert micro_batches_at_once(RESNET50, ComputeConfig(), memory=None) == 1


def test_a_gpu_computes_as_many_as_fit_its_memory() -> None:
    compute = ComputeConfig()
    sizes = [micro_batches_at_once(RESNET50, compute, memory) for memory in (1e9, 16e9, 24e9, 80e9)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[-1] == 8  # 256 images, and no more
    assert training_bytes(RESNET50, sizes[2]) < 0.6 * 24e9 < training_bytes(RESNET50, sizes[2] + 1)


@pytest.mark.parametrize("images", [None, 20, 300])
@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("global_batch", [64, 512])
def test_no_pass_is_larger_than_what_loading_is_counted_for(
    images: int | None, on_gpu: bool, global_batch: int
) -> None:
    batch = f"batch={{global_batch_size: {global_batch}, micro_batch_size: 32}}"
    recipe = load_recipe("resnet50", ["precision=float32", batch])
    compute = ComputeConfig(images_at_once=images)
    memory = 140e9 if on_gpu else None
    at_once = min(micro_batches_at_once(recipe, compute, memory), recipe.batch.num_micro_batches)
    most = most_images_at_once(recipe, compute, on_gpu=on_gpu)
    assert 32 * at_once <= most
    if images is None:
        assert 32 * at_once == most
