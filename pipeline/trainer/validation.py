"""The evaluations of a training: the whole test split by one protocol, after every epoch."""

from torch import nn

from pipeline.evaluation.evaluate import NOTHING_KEPT, evaluate
from pipeline.evaluation.metrics import Counts
from pipeline.evaluation.prediction_writer import PredictionWriter
from pipeline.evaluation.predictions import predictions_file
from pipeline.launch.heartbeat import Watchdog
from pipeline.launch.training_job import TrainingJob
from pipeline.runs.evaluated_model import model_of_recipe
from pipeline.runs.weights_source import prediction_metadata, weights_source_of_run
from pipeline.runtime.distributed import Worker


class Validation:
    """Tests a job's network by its recipe's protocol; the last predictions are for the run."""

    def __init__(self, job: TrainingJob, worker: Worker, watchdog: Watchdog) -> None:
        recipe = job.recipe
        self._job, self._worker, self._watchdog = job, worker, watchdog
        self._store = job.store()
        split = self._store.split(recipe.data.test_split)
        self._subject = model_of_recipe(recipe, job.folder.weights)
        self._setting = self._subject.setting(split, recipe.evaluation, job.cluster)
        file = predictions_file(job.folder.path, split.name, self._setting.protocol_name)
        self._gathered = PredictionWriter(file, len(split), worker)

    def test(self, model: nn.Module, *, is_last: bool) -> Counts:
        """Evaluate `model`, and gather its predictions if this is the last time. Collective."""
        keeper = self._gathered if is_last else NOTHING_KEPT
        return evaluate(model, self._setting, self._worker, self._watchdog.counted, keeper)

    def keep(self) -> None:
        """Write the last predictions. For the first worker, once the final weights are written."""
        store, setting, origin = self._store, self._setting, weights_source_of_run(self._job.folder)
        said = prediction_metadata(
            self._subject, origin, store, setting.split.name, setting.protocol
        )
        self._gathered.join(setting.split, store.classes, said)
