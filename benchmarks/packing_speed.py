"""Packing an archive in the layout of ILSVRC-2012's, beside what torchvision does with it."""

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
# So that every worker has several parts, as of the 600 of ILSVRC-2012.
_PARTS_PER_WORKER = 8


@dataclass(frozen=True)
class Packing:
    """Images per second, a value a round, and the most bytes that were taken while packing.

    `peer` is torchvision's extraction and one pass of `ImageFolder`; `peer_with_workers` the same,
    with as many `DataLoader` workers as ours. `taken` is what this process took more than before,
    and those that packed in all, `by_ray` Ray's own processes. `ours_per_cpu` and `peer_per_cpu`
    are images per second that a core was at work, Ray's own work counted: on a machine that does
    other things too, they tell more.
    """

    ours: Series
    peer: Series
    peer_with_workers: Series
    ours_per_cpu: Series
    peer_per_cpu: Series
    num_workers: int
    taken: int
    by_ray: int


def measure_packing(
    pictures: Split, folder: Path, rounds: int, num_workers: int, progress: ProgressCallback
) -> Packing:
    """Pack `pictures` from one archive, `rounds` times, in turns with torchvision.

    Neither computes the archive's MD5 sum. Ray has started before the clock does.
    """
    archive = folder / "train.tar"
    classes = _write_archive(archive, pictures)
    names = ("ours", "peer", "peer_with_workers")
    rates: dict[str, list[float]] = {name: [] for name in names}
    per_cpu: dict[str, list[float]] = {name: [] for name in names}
    taken, by_ray = [], []

    def rate(name: str, work: Callable[[], None]) -> None:
        started, worked = time.perf_counter(), _cpu_seconds()
        work()
        rates[name].append(len(pictures) / (time.perf_counter() - started))
        per_cpu[name].append(len(pictures) / (_cpu_seconds() - worked))

    with processes(num_workers):
        _pack(archive, classes, folder / "warm", num_workers)
        for number in range(rounds):
            with _watched_memory() as peaks:
                rate("ours", lambda: _pack(archive, classes, folder / "packed", num_workers))
            taken.append(peaks.taken)
            by_ray.append(peaks.by_ray)
            rate("peer", lambda: _extract_and_decode(archive, folder / "extracted", 0))
            rate(
                "peer_with_workers",
                lambda: _extract_and_decode(archive, folder / "extracted", num_workers),
            )
            progress(number + 1, rounds)
    return Packing(
        **{name: Series(tuple(values)) for name, values in rates.items()},
        ours_per_cpu=Series(tuple(per_cpu["ours"])),
        peer_per_cpu=Series(tuple(per_cpu["peer"])),
        num_workers=num_workers,
        taken=max(taken),
        by_ray=max(by_ray),
    )


def _write_archive(file: Path, pictures: Split) -> tuple[ImageClass, ...]:
    """Write a tar of one tar a class, a part of the pictures in each."""
    classes = tuple(ImageClass(index, f"n{index:08d}") for index in range(_CLASSES))
    with tarfile.open(file, "w") as outer:
        for each in classes:
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for i in range(each.index, len(pictures), _CLASSES):
                    _add(archive, f"{each.name}_{i}.JPEG", pictures.encoded(i).tobytes())
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
        places={},
        num_workers=num_workers,
        progress=lambda done, total: None,
        shard_bytes=archive.stat().st_size // (max(1, num_workers) * _PARTS_PER_WORKER),
    )
    rmtree(to)


def _extract_and_decode(archive: Path, to: Path, num_workers: int) -> None:
    """As `torchvision.datasets.imagenet.parse_train_archive`, then every image once."""
    extract_archive(archive, to)
    for inner in list(to.iterdir()):
        extract_archive(inner, inner.with_suffix(""), remove_finished=True)
    images = ImageFolder(to)
    for _ in DataLoader(images, batch_size=32, num_workers=num_workers, collate_fn=len):
        pass
    rmtree(to)


def _cpu_seconds() -> float:
    """Return what this process and its children have worked, those that ended too."""
    me, seconds = psutil.Process(), 0.0
    for process in me, *me.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended: its parent counts it
            times = process.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


@dataclass
class _Peaks:
    taken: int = 0
    by_ray: int = 0


@contextmanager
def _watched_memory() -> Iterator[_Peaks]:
    """Look every fifth of a second at what this process and its children have taken.

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
            peaks.taken, peaks.by_ray = max(peaks.taken, ours), max(peaks.by_ray, others)

    with in_background("memory", watch):
        yield peaks
