"""What the loader takes of the computer's memory, and whether that grows."""

import gc
from collections import deque
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import psutil

from pipeline.benchmark.train_steps import Bench, open_loader


@dataclass(frozen=True)
class LoaderMemory:
    """Bytes that a loader has taken, files mapped into memory left out."""

    after_first_epoch: int
    after_last_epoch: int
    epochs: int

    @property
    def growth(self) -> float:
        """Percent of what it had after the first epoch."""
        return 100 * (self.after_last_epoch / self.after_first_epoch - 1)


def measure_memory(bench: Bench, epochs: int) -> LoaderMemory:
    """Load `epochs` epochs; look at what the process has taken after the first and the last."""
    before = _bytes_taken()
    after_epoch = []
    with closing(open_loader(bench)) as batches:
        for _ in range(epochs):
            # As in training, a batch is held while the next one is awaited.
            deque(islice(batches, bench.dealing.num_steps), maxlen=1)
            after_epoch.append(_bytes_taken() - before)
    return LoaderMemory(after_epoch[0], after_epoch[-1], epochs)


def _bytes_taken() -> int:
    gc.collect()
    taken = psutil.Process().memory_info()
    return taken.rss - getattr(taken, "shared", 0)  # Linux tells mapped files apart
