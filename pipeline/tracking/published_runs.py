"""Records published results as finished runs of an experiment.

Their metrics, params, tags, data and description have the form of our evaluations', so that MLflow
shows both side by side; they have the tag `kind=published`.
"""

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipeline.results.published import Published, published
from pipeline.tracking.measured_runs import images_tag
from pipeline.tracking.mlflow_client import connect, user_errors
from pipeline.tracking.mlflow_runs import experiment_id, log_dataset
from pipeline.tracking.queries import KIND, PUBLISHED, all_runs
from pipeline.tracking.run_note import NOTE, published_note

if TYPE_CHECKING:
    from mlflow.entities import Run

_ID = "published.id"


def record_published(uri: str, experiment: str, results: Iterable[Published]) -> int:
    """Add those of `results` that the experiment lacks; return how many were added.

    A changed result is added as a new one: the run of the former one stays as it is. The experiment
    is made if need be.
    """
    with user_errors(uri):
        client = connect(uri)
        parent = experiment_id(client, uri, experiment)
        recorded = {run.data.tags.get(_ID): run for run in all_runs(client, parent, _FILTER)}
        new = [result for result in results if not _is_complete(recorded.get(_identity(result)))]
        # Their dates are unknown. The first milliseconds of 1970 put them below the experiment's
        # own runs, which MLflow shows newest first, in the order of the table.
        times = {result: len(published()) - i for i, result in enumerate(published())}
        for result in new:
            _record(uri, parent, result, times[result], recorded.get(_identity(result)))
    return len(new)


_FILTER = f"tags.{KIND} = '{PUBLISHED}'"


def _is_complete(run: "Run | None") -> bool:
    return run is not None and run.info.status == "FINISHED"


def _record(uri: str, experiment: str, result: Published, time: int, begun: "Run | None") -> None:
    """Add `result` as a run, or complete the one that a killed command has `begun`."""
    from mlflow.entities import Metric, Param

    client = connect(uri)
    run = begun or client.create_run(
        experiment,
        start_time=time,
        tags=_tags(result),  # now, so that it is found again
        run_name=f"{result.network}, {result.protocol}: {result.source}",
    )
    prefix = f"eval/{result.split}/{result.protocol}"
    metrics = {"top1_error": result.top1_error, "top5_error": result.top5_error}
    client.log_batch(
        run.info.run_id,
        metrics=[
            Metric(f"{prefix}/{name}", value, time, 0)
            for name, value in metrics.items()
            if value is not None
        ],
        params=[
            Param("recipe.network.name", result.network),
            Param("recipe.data.name", result.training_data),
        ],
    )
    log_dataset(uri, run.info.run_id, result.training_data, "as published", result.source)
    client.set_terminated(run.info.run_id, "FINISHED", end_time=time)


def _tags(result: Published) -> dict[str, str]:
    tags = {
        KIND: PUBLISHED,
        _ID: _identity(result),
        "dataset.name": result.training_data,
        "dataset.extra": result.extra_data,
        "split": result.split,
        "protocol": result.protocol,
        **(images_tag(result.split, result.protocol, result.images) if result.images else {}),
        "ensemble.size": str(result.ensemble_size or "unknown"),
        "ensemble.members": result.composition,
        "source": result.source,
        "variant": result.variant,
        "certainty": result.certainty,
        "mlflow.source.name": result.source,
        NOTE: published_note(result),
    }
    return {key: text for key, text in tags.items() if text}


def _identity(result: Published) -> str:
    return hashlib.sha256(result.model_dump_json().encode()).hexdigest()[:16]
