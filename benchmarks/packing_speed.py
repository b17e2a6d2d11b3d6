"""Packing an archive with the layout of ILSVRC-2012's, beside what torchvision does with it."""

import io
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

import psutil
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.datasets.utils import extract_archive

from pipeline.benchmark.timing import ProgressCallback, Series
from pipeline.data.sources.ilsvrc2012 import list_train
from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.parallel_map import processes
from pipeline.data.store.parallel_packing import Listing, pack_parallel
from pipeline.data.store.store import Split
from pipeline.runtime.background import in_background

_CLASSES = 20
# Every worker has several parts, as of the 600 of ILSVRC-2012.
_PARTS_PER_WORKER = 8


@dataclass(frozen=True)
class Packing:
    """Images per second, a value a round, and the peak of memory while packing, in bytes.

    `torchvision` is its extraction and one pass of `ImageFolder`; `torchvision_with_workers` the
    same, with as many `DataLoader` workers as ours. `memory` is what this process used more than
    before and what its workers used in all, `memory_of_ray` what Ray's own processes used.
    `ours_per_cpu` and `torchvision_per_cpu` are images per second of CPU time, Ray's own included:
    on a machine that does other things too, they are more reliable.
    """

    ours: Series
    torchvision: Series
    torchvision_with_workers: Series
    ours_per_cpu: Series
    torchvision_per_cpu: Series
    num_workers: int
    memory: int
    memory_of_ray: int


def measure_packing(
    split: Split, folder: Path, rounds: int, num_workers: int, progress: ProgressCallback
) -> Packing:
    """Pack the images of `split` from one archive, `rounds` times, in turns with torchvision.

    Neither computes the archive's MD5 sum. Ray starts before the clock does.
    """
    archive = folder / "train.tar"
    classes = _write_archive(archive, split)
    names = ("ours", "torchvision", "torchvision_with_workers")
    rates: dict[str, list[float]] = {name: [] for name in names}
    per_cpu: dict[str, list[float]] = {name: [] for name in names}
    memory, memory_of_ray = [], []

    def rate(name: str, work: Callable[[], None]) -> None:
        started, cpu_before = time.perf_counter(), _cpu_seconds()
        work()
        rates[name].append(len(split) / (time.perf_counter() - started))
        per_cpu[name].append(len(split) / (_cpu_seconds() - cpu_before))

    with processes(num_workers):
        _pack(archive, classes, folder / "warm", num_workers)
        for number in range(rounds):
            with _peak_memory() as peaks:
                rate("ours", lambda: _pack(archive, classes, folder / "packed", num_workers))
            memory.append(peaks.ours)
            memory_of_ray.append(peaks.ray)
            rate("torchvision", lambda: _extract_and_decode(archive, folder / "extracted", 0))
            rate(
                "torchvision_with_workers",
                lambda: _extract_and_decode(archive, folder / "extracted", num_workers),
            )
            progress(number + 1, rounds)
    return Packing(
        **{name: Series(tuple(values)) for name, values in rates.items()},
        ours_per_cpu=Series(tuple(per_cpu["ours"])),
        torchvision_per_cpu=Series(tuple(per_cpu["torchvision"])),
        num_workers=num_workers,
        memory=max(memory),
        memory_of_ray=max(memory_of_ray),
    )


def _write_archive(file: Path, split: Split) -> tuple[ImageClass, ...]:
    """Write a tar of one tar a class, a part of the images in each."""
    classes = tuple(ImageClass(index, f"n{index:08d}") for index in range(_CLASSES))
    with tarfile.open(file, "w") as outer:
        for each in classes:
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for i in range(each.index, len(split), _CLASSES):
                    _add(archive, f"{each.name}_{i}.JPEG", split.encoded(i).tobytes())
            _add(outer, f"{each.name}.tar", inner.getvalue())
    return classes


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def _pack(archive: Path, classes: tuple[ImageClass, ...], to: Path, num_workers: int) -> None:
    pack_parallel(
        to,
        name="packed",
        listing=Listing(classes, {"train": list_train(archive, classes)}, {}),
        source={},
        num_workers=num_workers,
        progress=lambda done, total: None,
        shard_bytes=archive.stat().st_size // (max(1, num_workers) * _PARTS_PER_WORKER),
    )
    rmtree(to)


def _extract_and_decode(archive: Path, to: Path, num_workers: int) -> None:
    """Do as `torchvision.datasets.imagenet.parse_train_archive`, then decode each image once."""
    extract_archive(archive, to)
    for inner in list(to.iterdir()):
        extract_archive(inner, inner.with_suffix(""), remove_finished=True)
    images = ImageFolder(to)
    for _ in DataLoader(images, batch_size=32, num_workers=num_workers, collate_fn=len):
        pass
    rmtree(to)


def _cpu_seconds() -> float:
    """Return the CPU time of this process and its children, ended ones included."""
    me, seconds = psutil.Process(), 0.0
    for process in me, *me.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended, and its parent's time has its own
            times = process.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


@dataclass
class _Peaks:
    ours: int = 0
    ray: int = 0


@contextmanager
def _peak_memory() -> Iterator[_Peaks]:
    """Measure, five times a second, what this process and its children use (PSS).

    A page that several of them share counts for each of them in part.
    """
    peaks, me = _Peaks(), psutil.Process()
    before = me.memory_full_info().pss

    def watch(is_over: threading.Event) -> None:
        while not is_over.wait(0.2):
            ours, others = -before, 0
            for process in me, *me.children(recursive=True):
                try:
                    is_ours = process == me or process.name().startswith("ray::")
                    pss = process.memory_full_info().pss
                except psutil.NoSuchProcess:
                    continue
                ours, others = ours + is_ours * pss, others + (not is_ours) * pss
            peaks.ours, peaks.ray = max(peaks.ours, ours), max(peaks.ray, others)

    with in_background("memory", watch):
        yield peaks
