"""Results of tracked runs with their keys, from params, tags and metrics."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from pipeline.evaluation.metrics import Counts, has_top5
from pipeline.results.measured import Measured
from pipeline.results.published import ResultKey
from pipeline.results.training_settings import training_settings
from pipeline.runtime.errors import UserError
from pipeline.tracking.queries import TrackedRun


def images_tag(split: str, protocol: str, images: int) -> dict[str, str]:
    """Return the tag of how many images the errors on `split` by `protocol` are of."""
    return {f"eval/{split}/{protocol}/images": str(images)}


def measured_from_runs(runs: Iterable[TrackedRun]) -> list[Measured]:
    """Return the results of `runs`, in their order; see `measured_from_run`.

    Of an evaluation and its training that have a result of the same key, the first one's is taken.
    An evaluation has the settings of its training, if that is among `runs`.
    """
    found: dict[tuple[str, ResultKey], Measured] = {}
    runs = list(runs)
    by_id = {run.run_id: run for run in runs}
    for run in runs:
        training = by_id.get(run.parent, run)
        for result in measured_from_run(
            params={**training.params, **run.params},
            tags=run.tags,
            metrics=run.metrics,
            run_id=run.run_id,
            date=f"{run.started:%Y-%m-%d}",
            complete=run.status == "FINISHED",
        ):
            settings = training_settings(training.params, training.tags)
            result = replace(result, settings=settings)
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
    classes = params.get("evaluation.num_classes") or params.get("recipe.network.num_classes")
    num_classes = int(classes) if classes else None
    results = []
    for name in dict.fromkeys([*metrics, *tags]):
        match name.split("/"):
            case ["eval", split, protocol, "images"]:
                images = int(tags.get(name) or metrics[name])  # earlier runs have it as a metric
                counts = _counts(metrics, f"eval/{split}/{protocol}", images, num_classes)
            case _:
                continue
        if counts is None:
            continue
        try:
            network = params["recipe.network.name"]
            data = tags.get("dataset.name") or params["recipe.data.name"]
        except KeyError as error:
            raise UserError(
                f"run '{run}': its param {error} is missing; delete the run or compare another "
                f"experiment"
            ) from None
        key = ResultKey(
            network,
            data,
            split,
            protocol,
            ensemble_size=int(tags.get("ensemble.size", 1)),
            extra_data=tags.get("dataset.extra", "none"),
        )
        results.append(Measured(key, counts, run, run_id, date, complete, num_classes))
    return results


def _counts(
    metrics: Mapping[str, float], prefix: str, images: int, num_classes: int | None
) -> Counts | None:
    """Return the hits that the errors are of, exactly; None where an error is missing.

    Of five classes or fewer there may be no top-5 error.
    """
    top1, top5 = (metrics.get(f"{prefix}/top{k}_error") for k in (1, 5))
    if top5 is None and not has_top5(num_classes):
        top5 = 0.0
    if top1 is None or top5 is None:
        return None
    top1_hits, top5_hits = (images - round(images * error / 100) for error in (top1, top5))
    return Counts(top1_hits, top5_hits, images)
