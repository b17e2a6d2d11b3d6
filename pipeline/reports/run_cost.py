"""The worker-hours that a run took, from its tracked metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipeline.reports.learning_curves import MetricHistory
from pipeline.tracking.queries import Point


@dataclass(frozen=True)
class RunCost:
    """Worker-hours spent on training steps; a worker is a GPU or a CPU worker (`unit`).

    Evaluations and starts are not included; steps that a stopped training repeated count once.
    `epochs` is the number of epochs done.
    """

    worker_hours: float
    epochs: float
    unit: str

    @property
    def words(self) -> str:
        return self._words(self.worker_hours)

    @property
    def words_per_epoch(self) -> str:
        return self._words(self.worker_hours / self.epochs) if self.epochs else ""

    def _words(self, hours: float) -> str:
        if hours < 0.1:
            return f"{3600 * hours:.3g} {self.unit}-seconds"
        return (
            f"{hours:,.0f} {self.unit}-hours" if hours >= 100 else f"{hours:.3g} {self.unit}-hours"
        )


def run_cost(history: MetricHistory) -> RunCost | None:
    """Sum the steps' images divided by the images/s of each report.

    None if these are missing, or if the number of workers is unknown or varied.
    """
    params, rates = history.run.params, history.metrics.get("train/images_per_second", ())
    workers = fixed_workers(params)
    if not rates or not history.steps_per_epoch or workers is None:
        return None
    batch = int(params["recipe.batch.global_batch_size"])
    unit = "GPU" if history.run.tags.get("device") == "gpu" else "CPU-worker"
    hours = max(1, workers) * training_seconds(rates, batch) / 3600
    return RunCost(hours, rates[-1].step / history.steps_per_epoch, unit)


def fixed_workers(params: Mapping[str, str]) -> int | None:
    """Return the number of workers of a run; None if it could vary or is unknown."""
    count = params.get("cluster.workers.count", "None")
    return None if count == "None" else int(count)


def training_seconds(rates: Sequence[Point], images_per_step: int) -> float:
    """Return the duration of the steps before each report of images/s, summed."""
    steps = [Point(0, 0.0), *rates]
    return sum(
        images_per_step * (after.step - before.step) / after.value
        for before, after in pairwise(steps)
        if after.value > 0
    )
