"""The evaluations of a training: the whole test split by one protocol, after every epoch."""

from collections.abc import Iterable

from torch import nn

from pipeline.data.loading.loader import Batch
from pipeline.data.loading.plans import share_of
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.metrics import Counts
from pipeline.evaluation.prediction_writer import PredictionWriter
from pipeline.evaluation.predictions import predictions_file
from pipeline.launch.events import Report
from pipeline.launch.heartbeat import Watchdog
from pipeline.launch.training_job import TrainingJob
from pipeline.runs.evaluated_model import model_of_recipe
from pipeline.runtime.distributed import Worker
from pipeline.trainer.batch_progress import reported_images


class Validation:
    """Evaluates a job's network by its recipe's protocol; collects the last predictions."""

    def __init__(
        self, job: TrainingJob, worker: Worker, watchdog: Watchdog, report: Report
    ) -> None:
        recipe = job.recipe
        self._job, self._worker, self._watchdog, self._report = job, worker, watchdog, report
        self._store = job.store()
        split = self._store.split(recipe.data.test_split)
        self._model = model_of_recipe(recipe, job.folder.weights)
        self._config = self._model.evaluation_config(split, recipe.evaluation, job.cluster)
        file = predictions_file(job.folder.path, split.name, self._config.protocol_name)
        self._writer = PredictionWriter(file, len(split), worker)

    def run(self, model: nn.Module, epoch: int) -> Counts:
        """Evaluate `model` after `epoch` epochs. A collective call."""
        on_scored = self._writer.add if epoch == self._job.recipe.epochs else None
        split, worker = self._config.split, self._worker
        share = len(share_of(len(split), worker.rank, worker.world_size))

        def watch(batches: Iterable[Batch]) -> Iterable[Batch]:
            batches = self._watchdog.counted_alone(batches)
            return reported_images(batches, split.name, share, worker, self._report)

        return evaluate(model, self._config, worker, watch, on_scored)

    def write_predictions(self) -> None:
        """Write the collected predictions. For the first worker, after the final weights."""
        split, classes = self._config.split, self._store.classes
        metadata = self._model.prediction_metadata(
            self._job.folder, self._store, split.name, self._config.protocol
        )
        self._writer.join(split, classes, metadata)
