"""Which published results may be held against a result, which are nearest, what sets them apart.

A test-set error of the challenge can't be measured any more, since the labels never came out. Where
its source also gives the error on the validation set, that one, its twin, stands in for it.
"""

from math import inf, log2

from pipeline.results.published import (
    Published,
    ResultKey,
    protocol_passes,
    protocol_words,
    published,
)


def alike(key: ResultKey) -> tuple[Published, ...]:
    """Return the published results of exactly `key`, the one to compare with first."""
    return tuple(result for result in published() if result.key == key)


def like_for_like(key: ResultKey) -> Published | None:
    """Return the published result of exactly `key` to compare with, or None."""
    return next((result for result in published() if result.key == key), None)


def on_val(result: Published) -> Published | None:
    """Return what the same networks reach by the same protocol on val; None if nobody says."""
    return None if result.split == "val" else _on_split(result, "val")


def on_test(result: Published) -> Published | None:
    """Return what the same networks reach by the same protocol on test; None if nobody says."""
    return None if result.split == "test" else _on_split(result, "test")


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


def neighbours(key: ResultKey) -> tuple[Published, ...]:
    """Return what other single networks or methods reach on the same split by the same protocol."""
    return tuple(
        result
        for result in published()
        if result.network != key.network
        and (result.training_data, result.split, result.protocol, result.ensemble_size)
        == (key.training_data, key.split, key.protocol, 1)
    )


def difference(a: ResultKey, b: ResultKey) -> str:
    """Say in words what `a` is instead of `b`; empty when they are alike."""
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


def refusal(key: ResultKey, result: Published) -> str | None:
    """Say why `result` must not stand beside a result of `key`, and what may; None if it may."""
    if result.key == key:
        return None
    near = nearest(key)
    which = "the nearest, " if result == near else ""
    reason = (
        f"not comparable with {which}{result.errors} of {result.citation}: "
        f"{difference(result.key, key)}"
    )
    if near is None or near == result:
        return reason
    kind = "like for like" if near.key == key else "nearest"
    return f"{reason}; {kind}: {near.errors} of {near.citation}"


def _on_split(result: Published, split: str) -> Published | None:
    wanted = ResultKey(**{**vars(result.key), "split": split})
    twins = alike(wanted)
    # The same source's, where several have one.
    ours = [twin for twin in twins if twin.variant == result.variant]
    return next(iter([*ours, *twins]), None)


def _octaves(a: int | None, b: int | None) -> float:
    if a is None or b is None:
        return 0.0 if a == b else inf
    return abs(log2(a / b))


def _ensemble(size: int | None) -> str:
    if size is None:
        return "ensemble of unknown size"
    return "1 network" if size == 1 else f"ensemble of {size}"
