"""Running statistics: the same for any number of workers, the textbook's for one micro-batch."""

import pytest
import torch
from torch import nn

from pipeline.data.loading.sampler import BatchSampler
from pipeline.training.batch_norm import equal_weight

# One step of 8 micro-batches of 4 images with 3 channels, and a second step.
STEPS = torch.randn(2, 8, 4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1


def running_after(num_workers: int) -> dict[str, torch.Tensor]:
    """Return the workers' mean statistics, weighted by their micro-batches of each step."""
    sampler = BatchSampler(32, 32, 8, num_workers)
    sums = {"running_mean": torch.zeros(3), "running_var": torch.zeros(3)}
    for rank in range(num_workers):
        layer = nn.BatchNorm2d(3)
        for step in STEPS:
            share = sampler.share(rank)
            for index, micro_batch in enumerate(share):
                with equal_weight(layer, index, len(share)):
                    layer(step[micro_batch])
        for name in sums:
            sums[name] += getattr(layer, name) * len(share) / 8
    return sums


@pytest.mark.parametrize("num_workers", [1, 2, 3, 4, 5])
def test_statistics_do_not_depend_on_the_number_of_workers(num_workers: int) -> None:
    ours, eight = running_after(num_workers), running_after(8)
    for name in ours:
        torch.testing.assert_close(ours[name], eight[name], rtol=1e-5, atol=1e-6)


def test_one_micro_batch_is_plain_batch_norm_and_momentum_is_unchanged() -> None:
    ours, plain = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    with equal_weight(nn.Sequential(ours), 0, 1):
        ours(STEPS[0, 0])
    plain(STEPS[0, 0])
    assert torch.equal(ours.running_mean, plain.running_mean)
    assert ours.momentum == 0.1


def test_momentum_is_applied_once_per_step() -> None:
    layer = nn.BatchNorm2d(3)
    for index in range(8):
        with equal_weight(layer, index, 8):
            layer(STEPS[0, index])
    torch.testing.assert_close(layer.running_mean, 0.1 * STEPS[0].mean((0, 1, 3, 4)))
