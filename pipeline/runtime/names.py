"""Misspelt names: the closest known one first, then all of them."""

import difflib
from collections.abc import Iterable


def suggest(name: str, known: Iterable[str]) -> str:
    """Return "did you mean `epochs`? there are: batch, epochs" for the name `epoch`."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean `{near[0]}`? " if near else ""
    return f"{guess}there are: {', '.join(known) or 'none'}"
