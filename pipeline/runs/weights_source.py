"""Where the weights of an evaluated network belong, and what is written beside its predictions."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.config.protocol import TestProtocol
from pipeline.data.store.store import Store
from pipeline.evaluation.predictions import PredictionMetadata
from pipeline.runs.evaluated_model import EvaluatedModel
from pipeline.runs.run_folder import RunFolder


@dataclass(frozen=True)
class WeightsSource:
    """Where a network's weights belong: its run's data and MLflow run, where it has one.

    `data` is the folder of the data that it learnt, `training_data` what that data set calls
    itself; both are empty, as its digest is, for weights from elsewhere.
    """

    folder: RunFolder
    tracking_run_id: str | None = None
    data: str = ""
    training_data: str = ""
    dataset_digest: str = ""
    extra_data: str = "none"


def weights_source_of_run(folder: RunFolder) -> WeightsSource:
    """Return the origin of a trained run's weights; `UserError` where there are none yet."""
    record, recipe = folder.trained_record(), folder.recipe()
    return WeightsSource(
        folder,
        record.tracking_run_id,
        recipe.data.name,
        record.dataset_name or recipe.data.name,
        record.dataset_digest,
        record.extra_data,
    )


def external_weights_source(subject: EvaluatedModel, runs_dir: Path) -> WeightsSource:
    """Return a folder for a network from elsewhere, named by its weights."""
    return WeightsSource(RunFolder(runs_dir / f"{subject.name}-{subject.weights_digest()[:8]}"))


def prediction_metadata(
    subject: EvaluatedModel, origin: WeightsSource, store: Store, split: str, protocol: TestProtocol
) -> PredictionMetadata:
    """Return what the predictions of `subject` on a split of `store` are to be known by.

    What weights from elsewhere learnt is taken for what they are shown.
    """
    is_own = origin.dataset_digest in ("", store.digest)
    return PredictionMetadata(
        network=subject.name,
        training_data=store.name if is_own else origin.training_data,
        training_digest=origin.dataset_digest,
        data=store.name,
        data_digest=store.digest,
        split=split,
        protocol=protocol.name(subject.input.size),
        weights_digest=subject.weights_digest(),
        run=origin.folder.name,
        extra_data=origin.extra_data,
    )
