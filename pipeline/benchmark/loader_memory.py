"""How much memory the loader uses, and whether that grows."""

import gc
from collections import deque
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import psutil

from pipeline.benchmark.train_steps import Bench, open_loader


@dataclass(frozen=True)
class LoaderMemory:
    """Bytes used by a loader, without files mapped into memory."""

    after_first_epoch: int
    after_last_epoch: int
    epochs: int

    @property
    def growth(self) -> float:
        """The growth since the end of the first epoch, in percent."""
        return 100 * (self.after_last_epoch / self.after_first_epoch - 1)


def measure_memory(bench: Bench, epochs: int) -> LoaderMemory:
    """Load `epochs` epochs; measure the process's memory after the first and the last."""
    before = _memory_bytes()
    after_epoch = []
    with closing(open_loader(bench)) as batches:
        for _ in range(epochs):
            # As in training, a batch is alive while the next one is loaded.
            deque(islice(batches, bench.sampler.num_steps), maxlen=1)
            after_epoch.append(_memory_bytes() - before)
    return LoaderMemory(after_epoch[0], after_epoch[-1], epochs)


def _memory_bytes() -> int:
    gc.collect()
    memory = psutil.Process().memory_info()
    return memory.rss - getattr(memory, "shared", 0)  # mapped files, which only Linux counts
