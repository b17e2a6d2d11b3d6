"""Verifying that a packed data set is still what was packed, image by image, with statistics."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.data.store.image_check import decode_image, pillows_warnings_ignored
from pipeline.data.store.index import IndexRow, read_rows
from pipeline.data.store.manifest import Contents, sha256
from pipeline.data.store.npy import decode_npy
from pipeline.data.store.packing import ProgressCallback
from pipeline.data.store.store import Store
from pipeline.runtime.errors import UserError

_MAX_NAMED = 20


@dataclass
class SplitReport:
    """The findings on one split. Sides in pixels; `problems` names at most 20 of `num_problems`.

    `modes` counts the decoded images by Pillow's names of pixel formats: RGB, L (grey) …
    """

    name: str
    num_images: int = 0
    num_decoded: int = 0
    num_bytes: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    treated: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    per_class: NDArray[np.integer] = field(default_factory=lambda: np.zeros(0, np.int64))
    shorter_sides: NDArray[np.integer] = field(default_factory=lambda: np.zeros(0, np.int64))
    largest: str = ""
    problems: list[str] = field(default_factory=list)
    num_problems: int = 0

    def add_problem(self, problem: str) -> None:
        self.num_problems += 1
        if len(self.problems) < _MAX_NAMED:
            self.problems.append(problem)


@dataclass(frozen=True)
class VerifyReport:
    """The findings on a data set."""

    store: Store
    splits: tuple[SplitReport, ...]

    @property
    def is_intact(self) -> bool:
        return not any(split.num_problems for split in self.splits)


def verify(store: Store, sample: int | None, progress: ProgressCallback) -> VerifyReport:
    """Read every byte of `store` and decode `sample` images of each split, or all for None.

    An image is intact when its bytes have the digest of packing and decode to the size in the
    index. Files of another digest than recorded are named, and so are images. An index that has
    changed isn't trusted: the images of its split are not checked.
    """
    manifests = {name: store.split_manifest(name) for name in store.split_names}
    total = sum(file.size for manifest in manifests.values() for file in manifest.files)
    done = 0

    def advance(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        progress(done, total)

    return VerifyReport(store, tuple(_verify_split(store, n, sample, advance) for n in manifests))


def _verify_split(
    store: Store, name: str, sample: int | None, advance: Callable[[int], None]
) -> SplitReport:
    report = SplitReport(name)
    manifest = store.split_manifest(name)
    changed = []
    for file in manifest.files:
        if sha256(store.folder / file.name) != file.sha256:
            report.add_problem(f"{file.name}: its bytes have changed")
            changed.append(file)
        advance(file.size)
    if manifest.index in changed:
        return report
    try:
        split = store.split(name)
    except UserError as error:
        report.add_problem(str(error))
        return report
    count = len(split)
    chosen = np.ones(count, bool)
    if sample is not None and sample < count:
        chosen[np.random.default_rng(0).permutation(count)[sample:]] = False
    report.per_class = np.bincount(split.labels[split.labels >= 0], minlength=len(store.classes))
    report.shorter_sides = split.sizes.min(axis=1)
    largest = int(split.sizes.astype(np.int64).prod(axis=1).argmax())
    height, width = split.sizes[largest].tolist()
    report.largest = f"{width}×{height}, {split.keys[largest]}"
    good = 0
    for row in read_rows(store.folder / manifest.index.name):
        if row.treatment:
            report.treated[row.treatment] += 1
        if row.status != "ok":
            report.left_out[row.status] += 1
            continue
        report.num_bytes += row.size
        if chosen[good]:
            data, where = split.encoded(good).tobytes(), split.location(good)
            _verify_image(report, row, data, where, store.contents)
        good += 1
    report.num_images = good
    return report


def _verify_image(
    report: SplitReport, row: IndexRow, data: bytes, where: str, contents: Contents
) -> None:
    report.num_decoded += 1
    if hashlib.sha256(data).digest() != row.sha256:
        report.add_problem(f"{where}: its bytes have changed")
        return
    if contents == "signals":
        try:
            decode_npy(np.frombuffer(data, np.uint8), row.width)
        except ValueError as error:
            report.add_problem(f"{where}: the signal {error}")
        return
    with pillows_warnings_ignored():
        decoded = decode_image(data)
    if isinstance(decoded, str):
        report.add_problem(f"{where}: {decoded}")
        return
    report.modes[decoded.mode] += 1
    if (decoded.height, decoded.width) != (row.height, row.width):
        found, expected = f"{decoded.width}×{decoded.height}", f"{row.width}×{row.height}"
        report.add_problem(f"{where}: is {found}, its index says {expected}")
