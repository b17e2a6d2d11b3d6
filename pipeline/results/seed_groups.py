"""Results of trainings that differ by their seed alone, with their mean and deviation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from pipeline.results.measured import Measured
from pipeline.results.published import ErrorName
from pipeline.results.training_settings import SEED


@dataclass(frozen=True)
class SeedSpread:
    """The mean of an error over runs, and its sample standard deviation (n − 1), in percent."""

    name: ErrorName
    value: float
    deviation: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.deviation:.2f}"


@dataclass(frozen=True)
class SeedGroup:
    """Results of one key, of trainings that differ by their seed alone; of any other run its own.

    Trainings that have not reached their end belong to the group, but not to its mean.
    """

    results: Sequence[Measured]

    @property
    def first(self) -> Measured:
        return self.results[0]

    @property
    def complete(self) -> Sequence[Measured]:
        return [result for result in self.results if result.complete]

    @property
    def words(self) -> str:
        """What the mean is of: "3 seeds"."""
        runs, seeds = len(self.complete), self._num_seeds
        return f"{seeds} seeds" if runs == seeds else f"{runs} runs of {seeds} seeds"

    @property
    def spreads(self) -> tuple[SeedSpread, ...]:
        """Mean and deviation of each error; empty with fewer than two seeds."""
        if self._num_seeds < 2:
            return ()
        values: dict[ErrorName, list[float]] = {}
        for result in self.complete:
            for error in result.errors:
                values.setdefault(error.name, []).append(error.value)
        return tuple(SeedSpread(name, mean(found), stdev(found)) for name, found in values.items())

    @property
    def top1_error(self) -> float:
        """The mean of the group, or its one result's."""
        return self.spreads[0].value if self.spreads else self.first.errors[0].value

    @property
    def _num_seeds(self) -> int:
        return len({result.settings.get(SEED) for result in self.complete})


def group_by_seed(results: Iterable[Measured]) -> list[SeedGroup]:
    """Group results, in the order of the first of each group, and by seed within one."""
    groups: dict[object, list[Measured]] = {}
    for number, result in enumerate(results):
        settings = {key: value for key, value in result.settings.items() if key != SEED}
        same = (result.key, result.counts.images, frozenset(settings.items()))
        groups.setdefault(same if result.settings else number, []).append(result)
    return [SeedGroup(sorted(found, key=_seed)) for found in groups.values()]


def _seed(result: Measured) -> int:
    return int(result.settings.get(SEED, 0))
