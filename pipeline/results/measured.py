"""The measured results of runs, each with its key."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.evaluation.metrics import Counts, Interval, has_top5, wilson_interval
from pipeline.evaluation.predictions import Predictions
from pipeline.results.published import ErrorName, ResultKey


@dataclass(frozen=True)
class Measured:
    """The result of one run on one split by one protocol.

    `complete`: the training has reached its end. `num_classes` are those guessed among, if known.
    `settings` are those of the training, by their keys (`pipeline/results/training_settings.py`).
    """

    key: ResultKey
    counts: Counts
    run: str = ""
    run_id: str = ""
    date: str = ""
    complete: bool = True
    num_classes: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def errors(self) -> "tuple[MeasuredError, ...]":
        """The top-1 and the top-5 error; of five classes or fewer, the top-1 error alone."""
        both = errors_of(self.counts)
        return both if has_top5(self.num_classes) else both[:1]


@dataclass(frozen=True)
class MeasuredError:
    """A top-k error in percent, with its 95 % interval."""

    name: ErrorName
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


def measured_from_predictions(predictions: Predictions) -> Measured:
    """Return the result of one evaluation; `UserError` where labels are unknown."""
    about = predictions.metadata
    key = ResultKey(
        network=about.network,
        training_data=about.training_data,
        split=about.qualified_split if about.is_foreign else about.split,
        protocol=about.protocol,
        ensemble_size=about.ensemble_size,
        extra_data=about.extra_data,
    )
    return Measured(key, predictions.counts, about.run, num_classes=len(predictions.classes))


def errors_of(counts: Counts) -> tuple[MeasuredError, MeasuredError]:
    """Return the top-1 and the top-5 error."""
    return (
        MeasuredError("top-1", counts.images - counts.top1_hits, counts.images),
        MeasuredError("top-5", counts.images - counts.top5_hits, counts.images),
    )


def result_tags(results: Iterable[Measured]) -> dict[str, str]:
    """Return each result as a tag: {"val/center-256-224": "42.80 (…) / 19.70 (…) of 50,000"}.

    Errors are in percent, top-1 and top-5. Of several results of a split and protocol, the first.
    """
    tags: dict[str, str] = {}
    for result in results:
        errors = " / ".join(map(str, result.errors))
        name = f"{result.key.split}/{result.key.protocol}"
        tags.setdefault(name, f"{errors} of {result.counts.images:,}")
    return tags
