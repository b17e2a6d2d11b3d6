"""Measured results beside published ones of the same key.

A number of another key never stands beside a result: a note names the nearest one and how it
differs.
"""

from dataclasses import dataclass

from pipeline.reports.result_groups import ResultGroup
from pipeline.results.comparability import difference, nearest, on_split, reference_result
from pipeline.results.measured import Measured, MeasuredError
from pipeline.results.published import Published, ResultKey
from pipeline.results.reproduction import Reproduction, check_reproduction
from pipeline.results.seed_groups import SeedSpread

NONE = "none"


@dataclass(frozen=True)
class Comparison:
    """A measured result, and the published one of the same key (`reference`) if there is one.

    `note` is the source of the reference, or why there is none, in one line.
    """

    result: Measured
    reference: Published | None
    reproduction: Reproduction | None
    note: str

    def published_error(self, error: MeasuredError | SeedSpread) -> float | None:
        """Return the reference's error of the same name, if published."""
        return self.reference.error(error.name) if self.reference else None

    def difference(self, error: MeasuredError | SeedSpread) -> str:
        """Return how many points `error` is above the published one; "–" if that is unknown."""
        published = self.published_error(error)
        return "–" if published is None else f"{error.value - published:+.2f}".replace("-", "−")


def compare(result: Measured) -> Comparison:
    reproduction = check_reproduction(result)
    reference = reproduction.reference if reproduction else reference_result(result.key)
    note = _source(reference, result.counts.images) if reference else _nearest_note(result.key)
    return Comparison(result, reference, reproduction, note)


class Notes:
    """The notes of one table: each in whole where it is new, then with a reference to it."""

    def __init__(self) -> None:
        self._shown: set[str] = set()

    def of(self, comparison: Comparison) -> str:
        if comparison.note in self._shown and comparison.note != NONE:
            return "source as above" if comparison.reference else "as above"
        self._shown.add(comparison.note)
        return comparison.note


def others(group: ResultGroup) -> str:
    """Say what is published of other networks, where nothing is of ours; empty if nothing is."""
    if not group.others:
        return ""
    networks = {result.key.network for result in group.results}
    ours = "this network" if len(networks) == 1 else ", ".join(group.unpublished)
    found = ", ".join(f"{other.errors} {other.network}" for other in group.others)
    left_out = group.num_others - len(group.others)
    more = f" and {left_out} farther from ours (`ilsvrc published`)" if left_out else ""
    return f"none for {ours}; others: {found}{more}"


def _source(published: Published, images: int) -> str:
    notes = [published.citation]
    if published.images not in (None, images):
        notes.append(f"on {published.images:,} images")
    if test := on_split(published, "test"):
        notes.append(f"on test it has {test.errors}")
    return "; ".join(notes)


def _nearest_note(key: ResultKey) -> str:
    """Say why there is no reference, and what there is instead."""
    near = nearest(key)
    if near:
        return (
            f"not comparable with the nearest, {near.errors} of {near.citation}: "
            f"{difference(near.key, key)}"
        )
    return NONE
