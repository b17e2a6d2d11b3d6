"""Running statistics: the same for any number of workers and passes, the textbook's for one."""

import pytest
import torch
from torch import nn

from pipeline.data.loading.sampler import BatchSampler
from pipeline.models.batch_norm import BatchNorm2d
from pipeline.runtime.distributed import Worker
from pipeline.training.batch_norm_statistics import BatchNormStatistics

# One step of 8 micro-batches of 4 images with 3 channels, and a second step.
STEPS = torch.randn(2, 8, 4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1
ALONE = Worker(0, 1, torch.device("cpu"))


def running_after(at_once: int) -> BatchNorm2d:
    layer = BatchNorm2d(3).double()
    statistics = BatchNormStatistics(layer, at_once)
    for step in STEPS.double():
        for micro_batches in step.split(at_once):
            statistics.expect(len(micro_batches))
            layer(micro_batches.flatten(0, 1))
            statistics.add_pass()
        statistics.update(ALONE)
    return layer


@pytest.mark.parametrize("at_once", [1, 2, 3, 8])
def test_statistics_are_the_mean_over_micro_batches_however_many_at_once(at_once: int) -> None:
    layer = running_after(at_once)
    expected = {"mean": torch.zeros(3).double(), "var": torch.ones(3).double()}
    for step in STEPS.double():
        for name, of_step in (("mean", step.mean((1, 3, 4))), ("var", step.var((1, 3, 4)))):
            expected[name] = 0.9 * expected[name] + 0.1 * of_step.mean(0)
    torch.testing.assert_close(layer.running_mean, expected["mean"], rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.running_var, expected["var"], rtol=0, atol=1e-12)
    assert layer.num_batches_tracked == len(STEPS)


@pytest.mark.parametrize("num_workers", [1, 2, 3, 5])
def test_statistics_do_not_depend_on_the_number_of_workers(
    num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, parts = BatchSampler(32, 32, 8, num_workers), []
    monkeypatch.setattr(
        "pipeline.training.batch_norm_statistics.sum_over_workers",
        lambda values, worker: parts.append(values.clone()) or sum(parts),
    )
    for rank in range(num_workers):
        layer = BatchNorm2d(3).double()
        statistics = BatchNormStatistics(layer, 1)
        statistics.expect(1)
        for micro_batch in sampler.share(rank):
            layer(STEPS[0, micro_batch].double())
            statistics.add_pass()
        statistics.update(Worker(rank, num_workers, torch.device("cpu")))
    mean = 0.1 * STEPS[0].double().mean((0, 1, 3, 4))
    torch.testing.assert_close(layer.running_mean, mean, rtol=0, atol=1e-12)


def test_one_micro_batch_is_plain_batch_norm() -> None:
    ours, plain = BatchNorm2d(3), nn.BatchNorm2d(3)
    statistics = BatchNormStatistics(nn.Sequential(ours), 1)
    statistics.expect(1)
    assert torch.equal(ours(STEPS[0, 0]), plain(STEPS[0, 0]))
    statistics.add_pass()
    statistics.update(ALONE)
    torch.testing.assert_close(ours.running_mean, plain.running_mean, rtol=0, atol=1e-7)
    torch.testing.assert_close(ours.running_var, plain.running_var, rtol=0, atol=1e-6)
    ours.eval(), plain.eval()
    torch.testing.assert_close(ours(STEPS[1, 0]), plain(STEPS[1, 0]), rtol=0, atol=1e-5)


def test_torchs_own_layer_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"^1: BatchNorm2d of torch would take"):
        BatchNormStatistics(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)), 2)
