"""Which images of a class are held out as val: a draw by name, the same wherever it is made."""

import hashlib
from collections.abc import Sequence


def holdout(names: Sequence[str], share: float) -> set[str]:
    """Return those of a class's `names` whose SHA-256 falls in the lowest `share`.

    So an image stays where it is when others come. At least one is held out, and one is not.
    """
    draws = {name: _draw(name) for name in names}
    num_held_out = sum(draw < share for draw in draws.values())
    return set(sorted(names, key=draws.__getitem__)[: min(max(num_held_out, 1), len(names) - 1)])


def _draw(name: str) -> float:
    """Return a number in [0, 1) that depends on nothing but `name`."""
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:6]) / 2**48
