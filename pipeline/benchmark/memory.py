"""What the loader takes of the computer's memory, and whether that grows."""

import ctypes
import gc
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context

import psutil
import torch

from pipeline.benchmark.subjects import Bench, open_loader
from pipeline.data.loaders import Loader

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_SECONDS_TO_REST = 1.0  # until the batches ahead are loaded


@dataclass(frozen=True)
class Memory:
    """Bytes that a loader holds, files mapped into memory left out."""

    after_first_epoch: int
    after_last_epoch: int
    epochs: int

    @property
    def growth(self) -> float:
        """Percent of what it had after the first epoch."""
        return 100 * (self.after_last_epoch / self.after_first_epoch - 1)


def measure_memory(bench: Bench, epochs: int) -> Memory:
    """Load `epochs` epochs in a process of their own; look after the first and the last.

    The allocator of that process gives freed memory back at once. Elsewhere it keeps a varying
    number of freed batches, which would hide a leak or pass for one.
    """
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
        return process.submit(_measure, bench, epochs).result()


def _measure(bench: Bench, epochs: int) -> Memory:
    torch.set_num_threads(1)
    if sys.platform == "linux":
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 128 * 1024)
    before = _bytes_taken()
    with closing(open_loader(bench)) as batches:
        _load_epoch(bench, batches)
        after_first_epoch = _bytes_taken() - before
        for _ in range(epochs - 1):
            _load_epoch(bench, batches)
        after_last_epoch = _bytes_taken() - before
    return Memory(after_first_epoch, after_last_epoch, epochs)


def _load_epoch(bench: Bench, batches: Loader) -> None:
    for _ in range(bench.dealing.num_steps):
        next(batches)


def _bytes_taken() -> int:
    time.sleep(_SECONDS_TO_REST)
    gc.collect()
    taken = psutil.Process().memory_info()
    return taken.rss - getattr(taken, "shared", 0)  # Linux tells mapped files apart
