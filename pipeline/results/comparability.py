"""Which published results compare with a result, which are nearest to it, and how they differ.

A test-set error of the challenge can't be measured any more, since the labels were never published.
If its source also gives the error on the validation set, that one stands in for it.
"""

from dataclasses import replace
from functools import cache
from math import inf, log2

from pipeline.results.published import (
    Published,
    ResultKey,
    protocol_passes,
    protocol_words,
    published,
)


@cache
def published_with_key(key: ResultKey) -> tuple[Published, ...]:
    """Return the published results of exactly `key`, the one to compare with first."""
    return tuple(result for result in published() if result.key == key)


def reference_result(key: ResultKey) -> Published | None:
    """Return the published result of exactly `key` to compare with, or None."""
    return next(iter(published_with_key(key)), None)


def on_split(result: Published, split: str) -> Published | None:
    """Return what the same networks reach by the same protocol on another split, if published."""
    if result.split == split:
        return None
    results = published_with_key(replace(result.key, split=split))
    # Several may have been published; the one of the same variant comes first.
    return min(results, key=lambda other: other.variant != result.variant, default=None)


def nearest(key: ResultKey) -> Published | None:
    """Return the result nearest to `key` of the same network and training data, or None.

    Nearest is, in this order: the same extra data, the nearest ensemble size, the nearest number
    of passes over an image (both by ratio), the same split, the same protocol, and the first in
    the file.
    """
    return min(
        (
            result
            for result in published()
            if (result.network, result.training_data) == (key.network, key.training_data)
        ),
        key=lambda result: (
            result.extra_data != key.extra_data,
            _octaves(result.ensemble_size, key.ensemble_size),
            _octaves(protocol_passes(result.protocol), protocol_passes(key.protocol)),
            result.split != key.split,
            result.protocol != key.protocol,
        ),
        default=None,
    )


def results_of_others(key: ResultKey) -> tuple[Published, ...]:
    """Return the results of other single networks or methods on the same split and protocol."""
    return tuple(
        result
        for result in published()
        if result.network != key.network
        and (result.training_data, result.split, result.protocol, result.ensemble_size)
        == (key.training_data, key.split, key.protocol, 1)
    )


def difference(a: ResultKey, b: ResultKey) -> str:
    """Return in words what `a` is instead of `b`; empty if they are equal."""
    parts = []
    if a.network != b.network:
        parts.append(f"{a.network} instead of {b.network}")
    if a.training_data != b.training_data:
        parts.append(f"trained on {a.training_data} instead of {b.training_data}")
    if a.split != b.split:
        parts.append(f"{a.split} instead of {b.split}")
    if a.protocol != b.protocol:
        parts.append(f"{protocol_words(a.protocol)} instead of {protocol_words(b.protocol)}")
    if a.ensemble_size != b.ensemble_size:
        parts.append(f"{_ensemble(a.ensemble_size)} instead of {b.ensemble_size or 'unknown'}")
    if a.extra_data != b.extra_data:
        parts.append(f"extra data {a.extra_data} instead of {b.extra_data}")
    return ", ".join(parts)


def _octaves(a: int | None, b: int | None) -> float:
    if a is None or b is None:
        return 0.0 if a == b else inf
    return abs(log2(a / b))


def _ensemble(size: int | None) -> str:
    if size is None:
        return "ensemble of unknown size"
    return "1 network" if size == 1 else f"ensemble of {size}"
