"""Every image once, whoever holds it; and a refusal when the sum is off."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.data.loaders import Batch
from pipeline.distributed import Worker
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.metrics import Counts

CLASSES = 7
LOGITS = torch.randn(64, CLASSES, generator=torch.Generator().manual_seed(3))
LABELS = torch.arange(64) % CLASSES
WORKER = Worker(0, 1, torch.device("cpu"))


def batches(start: int, end: int, size: int) -> Iterator[Batch]:
    for first in range(start, end, size):
        chosen = torch.arange(first, min(first + size, end))
        yield Batch(LOGITS[chosen], LABELS[chosen], chosen)


def count(start: int, end: int, size: int) -> Counts:
    return evaluate(nn.Identity(), batches(start, end, size), end - start, WORKER, "float32")


@settings(max_examples=40, deadline=None)
@given(num_images=st.integers(1, 64), world_size=st.integers(1, 8), batch_size=st.integers(1, 64))
def test_the_workers_counts_add_up_to_those_of_one(
    num_images: int, world_size: int, batch_size: int
) -> None:
    cuts = [rank * num_images // world_size for rank in range(world_size + 1)]
    shares = [count(low, high, batch_size) for low, high in pairwise(cuts)]
    total = Counts(0, 0, 0)
    for share in shares:
        total += share
    assert total == count(0, num_images, 64)
    ranked = LOGITS[:num_images].argsort(dim=1, descending=True)
    hits = ranked == LABELS[:num_images, None]
    assert total == Counts(int(hits[:, 0].sum()), int(hits[:, :5].sum()), num_images)


def test_a_missing_image_is_an_error_not_a_number() -> None:
    with pytest.raises(RuntimeError, match="9 images of a split of 10"):
        evaluate(nn.Identity(), batches(0, 9, 4), 10, WORKER, "float32")


def test_the_model_is_evaluated_as_such_and_left_as_it_was() -> None:
    model = nn.Sequential(nn.Dropout(0.9))
    assert evaluate(model, batches(0, 64, 16), 64, WORKER, "float32") == count(0, 64, 64)
    assert model.training
