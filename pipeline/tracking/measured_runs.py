"""Results of tracked runs with their keys, from params, tags and metrics."""

from collections.abc import Iterable, Mapping

from pipeline.evaluation.metrics import Counts
from pipeline.results.measured import Measured
from pipeline.results.published import ResultKey
from pipeline.runtime.errors import UserError
from pipeline.tracking.queries import TrackedRun


def measured_from_runs(runs: Iterable[TrackedRun]) -> list[Measured]:
    """Return the results of `runs`, in their order; see `measured_from_run`.

    Of an evaluation and its training that have a result of the same key, the first one's is taken.
    """
    found: dict[tuple[str, ResultKey], Measured] = {}
    for run in runs:
        for result in measured_from_run(
            params=run.params,
            tags=run.tags,
            metrics=run.metrics,
            run_id=run.run_id,
            date=f"{run.started:%Y-%m-%d}",
            complete=run.status == "FINISHED",
        ):
            found.setdefault((run.parent or run.run_id, result.key), result)
    return list(found.values())


def measured_from_run(
    params: Mapping[str, str],
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    *,
    run_id: str,
    date: str,
    complete: bool,
) -> list[Measured]:
    """Return the results of a tracked run: one for each split and protocol.

    A run that only evaluates has the name of the run that it evaluated. An evaluation that was
    tracked only in part is left out. Raises `UserError` for a run with evaluations whose network or
    data are missing.
    """
    run = tags.get("evaluation.run") or tags.get("mlflow.runName", run_id)
    results = []
    for metric in metrics:
        match metric.split("/"):
            case ["eval", split, protocol, "images"]:
                prefix = f"eval/{split}/{protocol}"
            case _:
                continue
        if f"{prefix}/top1_hits" not in metrics or f"{prefix}/top5_hits" not in metrics:
            continue
        try:
            network = params["recipe.network.name"]
            data = tags.get("dataset.name") or params["recipe.data.name"]
        except KeyError as error:
            raise UserError(
                f"run '{run}': its param {error} is missing; delete the run or compare another "
                f"experiment"
            ) from None
        counts = Counts(
            top1_hits=int(metrics[f"{prefix}/top1_hits"]),
            top5_hits=int(metrics[f"{prefix}/top5_hits"]),
            images=int(metrics[metric]),
        )
        key = ResultKey(
            network,
            data,
            split,
            protocol,
            ensemble_size=int(tags.get("ensemble.size", 1)),
            extra_data=tags.get("dataset.extra", "none"),
        )
        classes = params.get("recipe.network.num_classes")
        num_classes = int(classes) if classes else None
        results.append(Measured(key, counts, run, run_id, date, complete, num_classes))
    return results
