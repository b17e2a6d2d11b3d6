"""Metrics of a training, summed over all workers, reported and tracked by the first."""

import math
import time

import torch
from torch import Tensor

from pipeline.config.recipe import Recipe
from pipeline.data.loading.sampler import BatchSampler
from pipeline.evaluation.metric_sums import MetricSums
from pipeline.evaluation.metrics import Counts, has_top5
from pipeline.launch.events import Report, StepsReport, ValidationReport, WorkerSpeed
from pipeline.runtime.distributed import Worker, sum_over_workers
from pipeline.runtime.errors import TrainingStoppedError
from pipeline.tracking.tracker import SilentTracker
from pipeline.training.loop import StepResult
from pipeline.training.loss_monitor import REMEDY


class MetricAggregator:
    """Collects the steps since the last report; reports them, summed over workers, and the speed.

    Every worker reports its own speed, the first one everything else. Metrics are tracked by the
    first too: `tracker` is silent on the others.
    """

    def __init__(
        self,
        recipe: Recipe,
        sampler: BatchSampler,
        worker: Worker,
        report: Report,
        tracker: SilentTracker,
    ) -> None:
        self._recipe, self._sampler, self._worker = recipe, sampler, worker
        self._num_steps = sampler.num_steps
        self._report, self._tracker = report, tracker
        self._start()

    def _start(self) -> None:
        self._results: list[StepResult] = []
        self._started = time.perf_counter()

    def add(self, result: StepResult) -> None:
        """Add the result of a step."""
        self._results.append(result)

    def report_steps(self) -> StepsReport:
        """Report and track the steps that were added. A collective call.

        Raises `TrainingStoppedError` on all workers for the first step whose loss or gradient is
        not finite.
        """
        steps = self._summed_steps()
        self._report(self._speed(steps))
        if self._worker.is_first:
            self._report(steps)
        has_top5_error = has_top5(self._recipe.network.num_classes)
        self._tracker.log(
            {
                "train/loss": steps.loss,
                "train/top1_error": steps.top1_error,
                **({"train/top5_error": steps.top5_error} if has_top5_error else {}),
                "train/learning_rate": steps.learning_rate,
                "train/gradient_norm": steps.gradient_norm,
                "train/images_per_second": steps.images_per_second,
                "train/waiting_share": steps.seconds_waiting / steps.seconds,
                "train/epochs": steps.epoch + steps.step / steps.num_steps,
                "train/images": self._images_until(steps.epoch, steps.step),
            },
            step=steps.epoch * self._num_steps + steps.step,
        )
        self._start()
        return steps

    def report_evaluation(self, epoch: int, counts: Counts) -> None:
        """Report and track an evaluation after `epoch` epochs."""
        recipe = self._recipe
        split = recipe.data.test_split
        protocol = recipe.evaluation.name(recipe.input.size)
        if self._worker.is_first:
            self._report(ValidationReport(epoch, recipe.epochs, split, protocol, counts))
        # With x axes of their own: MLflow draws a sample of a long metric's steps, and against
        # another metric only the steps that it has of both.
        done = {"trained_epochs": epoch, "trained_images": self._images_until(epoch, 0)}
        metrics = {**counts.metrics(recipe.network.num_classes), **done}
        self._tracker.log(
            {f"eval/{split}/{protocol}/{name}": value for name, value in metrics.items()},
            step=epoch * self._num_steps,
        )
        self._start()

    def _images_until(self, epoch: int, step: int) -> int:
        return epoch * self._sampler.num_images + self._sampler.images_before(step)

    def _summed_steps(self) -> StepsReport:
        last = self._results[-1]
        steps = MetricSums.stack(result.sums for result in self._results).over_workers(self._worker)
        norms = torch.stack([result.gradient_norm for result in self._results]).double()
        # The same on all workers; their mean, so that all surely stop at the same step.
        norms = sum_over_workers(norms, self._worker) / self._worker.world_size
        self._check_finite(steps.loss, norms)
        images = steps.images.sum().item()
        seconds = time.perf_counter() - self._started
        return StepsReport(
            epoch=last.epoch,
            epochs=self._recipe.epochs,
            step=last.step + 1,
            num_steps=self._num_steps,
            loss=steps.loss.sum().item() / images,
            top1_error=100 * (1 - steps.top1_hits.sum().item() / images),
            top5_error=100 * (1 - steps.top5_hits.sum().item() / images),
            learning_rate=last.learning_rate,
            gradient_norm=norms.max().item(),
            images_per_second=images / seconds,
            seconds=seconds,
            seconds_waiting=sum(result.seconds_waiting for result in self._results),
        )

    def _check_finite(self, losses: Tensor, gradient_norms: Tensor) -> None:
        is_bad = ~(losses.isfinite() & gradient_norms.isfinite())
        if is_bad.any():
            index = int(is_bad.nonzero()[0])
            first, loss = self._results[index], losses[index].item()
            what = "gradient's length" if math.isfinite(loss) else "loss"
            value = gradient_norms[index].item() if math.isfinite(loss) else loss
            step = first.epoch * self._num_steps + first.step + 1
            raise TrainingStoppedError(
                f"the {what} is {value} at step {step} (learning rate {first.learning_rate:.3g}); "
                f"{REMEDY}"
            )

    def _speed(self, steps: StepsReport) -> WorkerSpeed:
        num_steps, device = len(self._results), self._worker.device
        used = 0
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            used = total - free
        return WorkerSpeed(
            self._worker.rank, steps.seconds / num_steps, steps.seconds_waiting / num_steps, used
        )
