"""Copies of a good file with damage, for readers that must refuse each in one line."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np


def damaged_copies(good: bytes, folder: Path, count: int = 100) -> Iterator[Path]:
    """Yield a file with some bytes of `good` changed, left out, or added, always the same ones."""
    random = np.random.default_rng(0)
    file = folder / "network"
    for _ in range(count):
        damaged = bytearray(good)
        for _ in range(3):
            place, size = int(random.integers(len(damaged))), int(random.integers(9))
            added = random.integers(0, 256, int(random.integers(9)), dtype=np.uint8)
            damaged[place : place + size] = bytes(added)
        file.write_bytes(damaged)
        yield file
