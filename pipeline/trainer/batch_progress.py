"""Tells the command every two seconds how far the first worker is, however long a step takes."""

import time
from collections.abc import Iterable, Iterator

from pipeline.config.recipe import Recipe
from pipeline.data.loading.loader import Batch
from pipeline.data.loading.sampler import BatchSampler
from pipeline.launch.events import BatchTaken, ImagesScored, Report
from pipeline.runtime.distributed import Worker
from pipeline.training.train_state import Progress

_SECONDS = 2.0


class BatchProgress:
    """Reports the batches of a training; silent on workers other than the first."""

    def __init__(
        self, recipe: Recipe, sampler: BatchSampler, worker: Worker, report: Report
    ) -> None:
        self._epochs, self._num_steps = recipe.epochs, sampler.num_steps
        self._num_batches = sampler.num_passes(worker.rank)
        self._is_first, self._report = worker.is_first, report
        self._last_report = float("-inf")

    def of_epoch(self, batches: Iterable[Batch], progress: Progress) -> Iterator[Batch]:
        """Yield `batches`, of the epoch of `progress`, and report some."""
        self._epoch = progress.epoch
        self.step_done(progress.step)
        for batch in batches:
            self._batch += 1
            now = time.monotonic()
            if self._is_first and now - self._last_report > _SECONDS:
                self._last_report = now
                number = min(self._batch, self._num_batches)  # beside samples of some optimizers
                self._report(
                    BatchTaken(
                        self._epoch, self._epochs, self._step, self._num_steps, number,
                        self._num_batches,
                    )
                )  # fmt: skip
            yield batch

    def step_done(self, step: int) -> None:
        """Note that `step` steps of the epoch are done."""
        self._step, self._batch = step, 0


def reported_images(
    batches: Iterable[Batch], split: str, num_images: int, worker: Worker, report: Report
) -> Iterable[Batch]:
    """Yield `batches`, and report how many of the first worker's `num_images` are done."""
    return _reported(batches, split, num_images, report) if worker.is_first else batches


def _reported(
    batches: Iterable[Batch], split: str, num_images: int, report: Report
) -> Iterator[Batch]:
    started, last_report, done = 0.0, float("-inf"), 0
    for batch in batches:
        now = time.monotonic()
        started = started or now  # with the first batch
        if now - last_report > _SECONDS:
            last_report = now
            speed = done / (now - started) if done else 0.0
            report(ImagesScored(split, done, num_images, speed))
        yield batch
        done += len(batch.indices.unique())
