"""A pass is cut where the size of its micro-batches changes, and nowhere else."""

import pytest
import torch

from pipeline.data.loading.loader import Batch
from pipeline.training.groups import even_parts


@pytest.mark.parametrize(
    ("micro_batches", "expected"),
    [
        ([3, 3, 4, 4, 5, 5], [(3, 4, 5)]),
        ([0, 0, 1, 1, 2], [(0, 1), (2,)]),
        ([0, 1, 1, 3, 3, 4], [(0,), (1, 3), (4,)]),  # images and all of one were left out
    ],
)
def test_parts_are_the_runs_of_equal_micro_batches(
    micro_batches: list[int], expected: list[tuple[int, ...]]
) -> None:
    rows = torch.arange(len(micro_batches))
    batch = Batch(rows.float(), rows, rows, rows + 100, torch.tensor(micro_batches))
    parts = even_parts(batch)
    assert [part.micro_batches for part in parts] == expected
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    assert torch.equal(torch.cat([part.labels for part in parts]), batch.labels)
    assert torch.equal(torch.cat([part.keys for part in parts]), batch.keys)
    assert all(len(part.labels) % part.num_groups == 0 for part in parts)
