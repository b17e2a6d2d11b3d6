"""Results as tables show them: those of one data set, split and protocol together, by seeds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.results.comparability import nearest, results_of_others
from pipeline.results.measured import Measured
from pipeline.results.published import ErrorName, Published
from pipeline.results.seed_groups import SeedGroup, group_by_seed
from pipeline.results.training_settings import SEED, differing_settings, setting_names

_MOST_OTHERS = 8
_MOST_SETTINGS = 4


@dataclass(frozen=True)
class ResultGroup:
    """All results of one data set, split and protocol; what they differ in, by keys of settings.

    `others` are published errors of other networks, where one of ours has nothing published: those
    nearest to ours, lowest first. `num_others` is how many there are.
    """

    seeds: Sequence[SeedGroup]
    differing: Sequence[str]
    others: Sequence[Published]
    num_others: int

    @property
    def results(self) -> list[Measured]:
        return [result for group in self.seeds for result in group.results]

    @property
    def title(self) -> str:
        """The data set, split, protocol, and the number of images, if it is one."""
        key = self.seeds[0].first.key
        count = f", {self.images:,} images" if self.images else ""
        return f"{key.training_data} {key.split}, {key.protocol}{count}"

    @property
    def images(self) -> int | None:
        """The number of images, the same of all results, or None."""
        images = {result.counts.images for result in self.results}
        return images.pop() if len(images) == 1 else None

    @property
    def error_names(self) -> tuple[ErrorName, ...]:
        """Top-1, and top-5 unless all results are of five classes or fewer."""
        return max((tuple(e.name for e in result.errors) for result in self.results), key=len)

    @property
    def settings(self) -> list[str]:
        """What the runs differ in besides the seed."""
        return [key for key in self.differing if key != SEED]

    @property
    def shown_settings(self) -> dict[str, str]:
        """The names of those settings that have a place in a table, by their keys."""
        return {key: self._names[key] for key in self.settings[:_MOST_SETTINGS]}

    @property
    def left_out(self) -> str:
        """What else the runs differ in, in words; empty if it is nothing."""
        names = [self._names[key] for key in self.settings[_MOST_SETTINGS:]]
        return f"the runs also differ in: {', '.join(names)}" if names else ""

    @property
    def _names(self) -> dict[str, str]:
        return setting_names(self.settings)

    @property
    def has_seeds(self) -> bool:
        return SEED in self.differing

    @property
    def unpublished(self) -> list[str]:
        """The networks that nothing is published of, on these data."""
        networks = dict.fromkeys(result.key.network for result in self.results)
        keys = {result.key.network: result.key for result in self.results}
        return [network for network in networks if nearest(keys[network]) is None]


def result_groups(results: Iterable[Measured]) -> list[ResultGroup]:
    """Group results, in the order of the first of each group."""
    by_test: dict[tuple[str, str, str], list[Measured]] = {}
    for result in results:
        key = result.key
        by_test.setdefault((key.training_data, key.split, key.protocol), []).append(result)
    return [_group(found) for found in by_test.values()]


def _group(results: Sequence[Measured]) -> ResultGroup:
    seeds = group_by_seed(results)
    without = [group for group in seeds if nearest(group.first.key) is None]
    others: dict[str, Published] = {}  # the first row of a network is its authors'
    for other in results_of_others(without[0].first.key) if without else ():
        others.setdefault(other.network, other)
    lowest = min((group.top1_error for group in without), default=0.0)
    known = [other for other in others.values() if other.top1_error is not None]
    known.sort(key=lambda other: abs((other.top1_error or 0.0) - lowest))
    shown = sorted(known[:_MOST_OTHERS], key=lambda other: other.top1_error or 0.0)
    differing = differing_settings([result.settings for result in results])
    return ResultGroup(seeds, differing, shown, len(others))
