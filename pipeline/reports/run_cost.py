"""What a run cost, from its own records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipeline.reports.learning_curves import MetricCourse
from pipeline.tracking.queries import Point


@dataclass(frozen=True)
class RunCost:
    """Hours of workers, a GPU or CPUs each (`unit`), spent on training steps.

    Evaluations and starts are not in it; steps that a stopped training did twice count once.
    `epochs` is how many were done.
    """

    worker_hours: float
    epochs: float
    unit: str

    @property
    def words(self) -> str:
        return self._words(self.worker_hours)

    @property
    def words_an_epoch(self) -> str:
        return self._words(self.worker_hours / self.epochs) if self.epochs else ""

    def _words(self, hours: float) -> str:
        if hours < 0.1:
            return f"{3600 * hours:.3g} {self.unit}-seconds"
        return (
            f"{hours:,.0f} {self.unit}-hours" if hours >= 100 else f"{hours:.3g} {self.unit}-hours"
        )


def cost_of(course: MetricCourse) -> RunCost | None:
    """Add up the steps' images over the images/s of each report.

    None where these are missing, or where nobody knows how many workers did each step.
    """
    params, rates = course.run.params, course.metrics.get("train/images_per_second", ())
    workers = fixed_workers(params)
    if not rates or not course.steps_an_epoch or workers is None:
        return None
    batch = int(params["recipe.batch.global_batch_size"])
    unit = "GPU" if course.run.tags.get("device") == "gpu" else "CPU-worker"
    hours = max(1, workers) * seconds_of(rates, batch) / 3600
    return RunCost(hours, rates[-1].step / course.steps_an_epoch, unit)


def fixed_workers(params: Mapping[str, str]) -> int | None:
    """Return how many workers a run had; None where nodes could go and come, or nobody knows."""
    count = params.get("cluster.workers.count", "None")
    return None if count == "None" else int(count)


def seconds_of(rates: Sequence[Point], images_a_step: int) -> float:
    """Return how long the steps took that led to each report of images/s."""
    steps = [Point(0, 0.0), *rates]
    return sum(
        images_a_step * (after.step - before.step) / after.value
        for before, after in pairwise(steps)
        if after.value > 0
    )
