"""Opening a packed data set as large as ILSVRC-2012, and reading images from one and from files."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from pipeline.benchmark.timing import ProgressCallback, Series, TimedTask, take_turns
from pipeline.benchmark.train_steps import Bench, loading_only, open_loader, training_steps
from pipeline.data.store.index import IndexRow
from pipeline.data.store.manifest import (
    FILE_NAME,
    FORMAT_VERSION,
    ImageClass,
    Manifest,
    ManifestFile,
)
from pipeline.data.store.packing import SplitWriter
from pipeline.data.store.store import Split, Store

_ROWS_PER_SHARD = 2_136  # 600 shards for ILSVRC-2012
_IMAGE_BYTES = 110_000
_READS_AT_ONCE = 64


@dataclass(frozen=True)
class Opening:
    """The most seconds and bytes that opening a data set of `num_rows` images took."""

    num_rows: int
    seconds: float
    kept: int
    peak: int


@dataclass(frozen=True)
class Reading:
    """Images per second, a value a round: bytes in random order, batches loaded, steps trained."""

    bytes_packed: Series
    bytes_loose: Series
    loaded_packed: Series
    loaded_loose: Series
    trained_packed: Series
    trained_loose: Series


def measure_opening(folder: Path, num_rows: int, rounds: int) -> Opening:
    """Open a data set of `num_rows` rows, each time in a new process.

    Its shards are sparse files of the right size: opening reads no more of them.
    """
    _write_index(folder, num_rows)
    context = multiprocessing.get_context("spawn")
    opened = []
    for _ in range(rounds):
        with context.Pool(1) as pool:
            opened.append(pool.apply(_open, (folder,)))
    seconds, kept, peak = map(max, zip(*opened, strict=True))
    return Opening(num_rows, seconds, kept, peak)


def measure_reading(
    bench: Bench, folder: Path, rounds: int, seconds: float, progress: ProgressCallback
) -> Reading:
    """Read the bench's images from their shards, and from a file each in `folder`, in turns."""
    folder.mkdir()
    split = bench.split
    files = [folder / f"{key}.jpg" for key in split.keys]
    for i, file in enumerate(files):
        file.write_bytes(split.encoded(i).tobytes())
    loose = replace(bench, split=_LooseFiles(split, files))
    with ExitStack() as stack:
        tasks = {
            name: stack.enter_context(closing(task))
            for name, task in {
                "bytes_packed": _random_reads(split.encoded_batch, len(split)),
                "bytes_loose": _random_reads(loose.split.encoded_batch, len(split)),
                "loaded_packed": loading_only(open_loader(bench)),
                "loaded_loose": loading_only(open_loader(loose)),
                "trained_packed": training_steps(bench, open_loader(bench)),
                "trained_loose": training_steps(loose, open_loader(loose)),
            }.items()
        }
        return Reading(**take_turns(tasks, rounds, seconds, bench.device, progress))


class _LooseFiles(Split):
    """The same split with its images in files."""

    def __init__(self, split: Split, files: Sequence[Path]) -> None:
        self.__dict__.update(vars(split))
        self._files = files

    def encoded_batch(self, images: Sequence[int]) -> list[NDArray[np.uint8]]:
        return [np.frombuffer(self._files[i].read_bytes(), np.uint8) for i in images]


def _random_reads(
    read: Callable[[Sequence[int]], list[NDArray[np.uint8]]], num_images: int
) -> TimedTask:
    """Read in random order, and touch every byte: a memory map reads none before."""
    random = np.random.default_rng(0)
    while True:
        order = random.permutation(num_images)
        for start in range(0, num_images, _READS_AT_ONCE):
            images = read(order[start : start + _READS_AT_ONCE].tolist())
            for data in images:
                np.bitwise_xor.reduce(data[: len(data) // 8 * 8].view(np.uint64))
            yield len(images)


def _write_index(folder: Path, num_rows: int) -> None:
    folder.mkdir()
    classes = [ImageClass(index, f"n{index:08d}") for index in range(1000)]
    writer = SplitWriter(folder, "train", len(classes))
    for i in range(num_rows):
        shard, place = divmod(i, _ROWS_PER_SHARD)
        label = i * len(classes) // num_rows
        key, digest = f"{classes[label].name}_{i}", i.to_bytes(32, "little")
        offset = 512 + place * _IMAGE_BYTES
        writer.add(IndexRow(key, label, shard, offset, 100_000, 375, 500, "ok", "", digest))
    writer.close()
    shards = []
    for number in range(-(-num_rows // _ROWS_PER_SHARD)):
        file = ManifestFile(
            name=f"train-{number:06d}.tar", size=_ROWS_PER_SHARD * _IMAGE_BYTES, sha256="0" * 64
        )
        with (folder / file.name).open("wb") as sparse:
            sparse.truncate(file.size)
        shards.append(file)
    description = Manifest(
        format_version=FORMAT_VERSION,
        name="large",
        digest="0" * 64,
        classes=tuple(classes),
        splits={"train": writer.written(shards).manifest},
        source={},
        places={},
    )
    (folder / FILE_NAME).write_text(description.model_dump_json(), encoding="utf-8")


def _open(folder: Path) -> tuple[float, int, int]:
    """Return seconds, and the bytes that this process uses more at the end and at most."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    before = psutil.Process().memory_info().rss
    started = time.perf_counter()
    split = Store.open(folder).split("train")
    seconds = time.perf_counter() - started
    after = psutil.Process().memory_info().rss
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (peak,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert len(split)
    return seconds, after - before, peak * 1024 - before
