"""What runs measured, each result with the key that makes it one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.errors import UserError
from pipeline.evaluation.metrics import Counts, Interval, wilson_interval
from pipeline.published import ResultKey
from pipeline.tracking.queries import TrackedRun


@dataclass(frozen=True)
class Measured:
    """The result of one run on one split by one protocol; `counts` is None before it is measured.

    `complete` says that the training has reached its end.
    """

    key: ResultKey
    counts: Counts | None = None
    run: str = ""
    run_id: str = ""
    date: str = ""
    complete: bool = True


@dataclass(frozen=True)
class MeasuredError:
    """A top-k error in percent, `name` being "top-1" or "top-5", with its 95 % interval."""

    name: str
    errors: int
    images: int

    @property
    def value(self) -> float:
        return 100 * self.errors / self.images

    @property
    def interval(self) -> Interval:
        return wilson_interval(self.errors, self.images)

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.interval.low:.2f}–{self.interval.high:.2f})"


def errors_of(counts: Counts) -> tuple[MeasuredError, MeasuredError]:
    """Return the top-1 and the top-5 error."""
    return (
        MeasuredError("top-1", counts.images - counts.top1_hits, counts.images),
        MeasuredError("top-5", counts.images - counts.top5_hits, counts.images),
    )


def measured_from_runs(runs: Iterable[TrackedRun]) -> list[Measured]:
    """Return what `runs` measured, in their order; see `measured_from_run`.

    An evaluation, and the training that it belongs to, may have measured the same; then the first
    counts.
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
    """Return what a tracked run measured: one result for each split and protocol.

    A run that only evaluates goes by the name of what it evaluated. An evaluation that was tracked
    only in part is left out. Raises `UserError` for a run that has evaluations but does not say of
    which network or data.
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
        results.append(Measured(key, counts, run, run_id, date, complete))
    return results


def result_tags(results: Iterable[Measured]) -> dict[str, str]:
    """Return each result as a tag: {"val/center-256-224": "42.80 (…) / 19.70 (…) of 50,000"}.

    Errors are in percent, top-1 and top-5. Of several results of a key, the first.
    """
    tags: dict[str, str] = {}
    for result in results:
        if result.counts:
            errors = " / ".join(map(str, errors_of(result.counts)))
            place = f"{result.key.split}/{result.key.protocol}"
            tags.setdefault(place, f"{errors} of {result.counts.images:,}")
    return tags
