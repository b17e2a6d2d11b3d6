"""How far the first worker is, told by the clock and not by steps."""

import time
from collections.abc import Iterator

import pytest
import torch

from pipeline.config.recipe import load_recipe
from pipeline.data.loading.loader import Batch
from pipeline.data.loading.sampler import BatchSampler
from pipeline.launch.events import BatchTaken, Event, ImagesScored
from pipeline.runtime.distributed import Worker
from pipeline.trainer.batch_progress import BatchProgress, reported_images
from pipeline.training.train_state import Progress

FIRST, SECOND = (Worker(rank, 2, torch.device("cpu")) for rank in (0, 1))


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as a list that a test adds seconds to."""
    times = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: sum(times))
    return times


def batches(seconds: list[float], pauses: list[float]) -> Iterator[Batch]:
    for number, pause in enumerate(pauses):
        seconds.append(pause)
        indices = torch.arange(4) + 4 * number
        yield Batch.of(torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.long), indices)


def test_batches_are_told_every_two_seconds_by_the_first_worker(seconds: list[float]) -> None:
    recipe = load_recipe("smoke", ["batch={global_batch_size: 64, micro_batch_size: 8}"])
    sampler = BatchSampler.of(recipe.batch, 898, world_size=2)
    told: list[Event] = []
    progress = BatchProgress(recipe, sampler, FIRST, told.append)
    for number, _ in enumerate(
        progress.of_epoch(batches(seconds, [1, 1, 1, 1.5, 9, 1]), Progress(3, 7))
    ):
        if number == 3:
            progress.step_done(8)
    epochs, num_steps = recipe.epochs, sampler.num_steps
    assert told == [
        BatchTaken(3, epochs, 7, num_steps, 1, 4),
        BatchTaken(3, epochs, 7, num_steps, 4, 4),
        BatchTaken(3, epochs, 8, num_steps, 1, 4),
    ]
    silent = BatchProgress(recipe, sampler, SECOND, told.append)
    assert len(list(silent.of_epoch(batches(seconds, [5, 5]), Progress()))) == 2
    assert len(told) == 3


def test_scored_images_are_told_every_two_seconds_by_the_first_worker(
    seconds: list[float],
) -> None:
    told: list[Event] = []
    for worker in (FIRST, SECOND):
        watched = reported_images(batches(seconds, [1, 1, 3, 4]), "val", 16, worker, told.append)
        assert len(list(watched)) == 4
    assert told == [
        ImagesScored("val", 0, 16, 0.0),
        ImagesScored("val", 8, 16, 2.0),
        ImagesScored("val", 12, 16, 1.5),
    ]
