"""Sums of loss and hits: of images, of parts, over workers."""

from dataclasses import astuple

import torch

from pipeline.evaluation.metric_sums import MetricSums
from pipeline.runtime.distributed import Worker

CPU = torch.device("cpu")


def sums_of(scores: torch.Tensor, loss: float) -> MetricSums:
    labels = torch.zeros(len(scores), dtype=torch.int64)
    return MetricSums.of(torch.tensor(loss, dtype=torch.float64), scores, labels, CPU)


def values(sums: MetricSums) -> list[object]:
    return [value.tolist() for value in astuple(sums)]


def test_parts_are_counted_added_and_stacked() -> None:
    first = sums_of(torch.eye(8)[[0, 0, 7]], 1.5)
    second = sums_of(torch.arange(8.0).expand(2, 8), 2.0)  # class 0 is the last guess
    assert values(first) == [1.5, 2, 3, 3]
    assert values(second) == [2.0, 0, 0, 2]
    assert values(first + second) == [3.5, 2, 3, 5]
    assert values(MetricSums.zeros(torch.float64, CPU) + first) == values(first)
    stacked = MetricSums.stack([first, second]).over_workers(Worker(0, 1, CPU))
    assert values(stacked) == [[1.5, 2.0], [2, 0], [3, 0], [3, 2]]
