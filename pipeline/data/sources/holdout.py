"""The images of a class that are held out as val, chosen by a hash of their names."""

import hashlib
from collections.abc import Sequence


def holdout(names: Sequence[str], share: float) -> set[str]:
    """Return those of a class's `names` whose SHA-256 falls in the lowest `share`.

    So added images change no other's split. At least one is held out, and one is not.
    """
    num_held_out = sum(_hash(name) < share for name in names)
    return set(sorted(names, key=_hash)[: min(max(num_held_out, 1), len(names) - 1)])


def _hash(name: str) -> float:
    """Return a number in [0, 1) that depends on `name` alone."""
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:6]) / 2**48
