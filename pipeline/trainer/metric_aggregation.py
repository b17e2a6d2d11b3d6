"""What the first worker reports and tracks, added up over all workers."""

import math
import time

import torch
from torch import Tensor

from pipeline.config.recipe import Recipe
from pipeline.evaluation.metrics import Counts
from pipeline.launch.events import Report, StepsReport, ValidationReport, WorkerSpeed
from pipeline.runtime.distributed import Worker, sum_over_workers
from pipeline.runtime.errors import TrainingStoppedError
from pipeline.tracking.tracker import SilentTracker
from pipeline.training.loop import StepResult
from pipeline.training.loss_watch import MEND


class MetricAggregator:
    """Collects the steps since its last report, and tells of them: rank 0 of all, each of its own.

    All take part in the sums.
    """

    def __init__(
        self, recipe: Recipe, num_steps: int, worker: Worker, report: Report, tracker: SilentTracker
    ) -> None:
        self._recipe, self._num_steps, self._worker = recipe, num_steps, worker
        self._report, self._tracker = report, tracker
        self._start()

    def _start(self) -> None:
        self._outcomes: list[StepResult] = []
        self._started = time.perf_counter()

    def add(self, outcome: StepResult) -> None:
        self._outcomes.append(outcome)

    def report_steps(self) -> StepsReport:
        """Report and track the steps that were added. A collective call.

        Raises `TrainingStoppedError` on all workers for the first step whose loss or gradient is no
        finite number.
        """
        progress = self._progress()
        self._report(self._pace(progress))
        if self._worker.is_first:
            self._report(progress)
            self._tracker.log(
                {
                    "train/loss": progress.loss,
                    "train/top1_error": progress.top1_error,
                    "train/top5_error": progress.top5_error,
                    "train/learning_rate": progress.learning_rate,
                    "train/gradient_norm": progress.gradient_norm,
                    "train/images_per_second": progress.images_per_second,
                    "train/waiting_share": progress.seconds_waiting / progress.seconds,
                    "train/epochs": progress.epoch + progress.step / progress.num_steps,
                },
                step=progress.epoch * self._num_steps + progress.step,
            )
        self._start()
        return progress

    def _refuse_no_number(self, losses: Tensor, gradient_norms: Tensor) -> None:
        is_bad = ~(losses.isfinite() & gradient_norms.isfinite())
        if is_bad.any():
            index = int(is_bad.nonzero()[0])
            first, loss = self._outcomes[index], losses[index].item()
            what = "gradient's length" if math.isfinite(loss) else "loss"
            value = gradient_norms[index].item() if math.isfinite(loss) else loss
            step = first.epoch * self._num_steps + first.step + 1
            raise TrainingStoppedError(
                f"the {what} is {value} at step {step} (learning rate {first.learning_rate:.3g}); "
                f"{MEND}"
            )

    def report_evaluation(self, epoch: int, counts: Counts) -> None:
        """Report and track an evaluation after `epoch` epochs; comparison reads the counts."""
        recipe = self._recipe
        split = recipe.data.test_split
        protocol = recipe.evaluation.name(recipe.input.size)
        if self._worker.is_first:
            self._report(ValidationReport(epoch, recipe.epochs, split, protocol, counts))
            prefix = f"eval/{split}/{protocol}"
            self._tracker.log(
                {f"{prefix}/{name}": value for name, value in counts.metrics.items()},
                step=epoch * self._num_steps,
            )
        self._start()

    def _pace(self, progress: StepsReport) -> WorkerSpeed:
        steps, device = len(self._outcomes), self._worker.device
        used = 0
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            used = total - free
        return WorkerSpeed(
            self._worker.rank, progress.seconds / steps, progress.seconds_waiting / steps, used
        )

    def _progress(self) -> StepsReport:
        last = self._outcomes[-1]
        steps = sum_over_workers(
            torch.stack(
                [torch.cat([each.sums, each.gradient_norm[None]]) for each in self._outcomes]
            ),
            self._worker,
        )
        norms = steps[:, 4] / self._worker.world_size  # the same on all
        self._refuse_no_number(steps[:, 0], norms)
        loss, top1_hits, top5_hits, images = steps[:, :4].sum(0).tolist()
        seconds = time.perf_counter() - self._started
        return StepsReport(
            epoch=last.epoch,
            epochs=self._recipe.epochs,
            step=last.step + 1,
            num_steps=self._num_steps,
            loss=loss / images,
            top1_error=100 * (1 - top1_hits / images),
            top5_error=100 * (1 - top5_hits / images),
            learning_rate=last.learning_rate,
            gradient_norm=norms.max().item(),
            images_per_second=images / seconds,
            seconds=seconds,
            seconds_waiting=sum(outcome.seconds_waiting for outcome in self._outcomes),
        )
