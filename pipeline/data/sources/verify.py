"""Whether a packed data set is still what was packed, image by image, and what is in it."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.data.store.image_check import check_image
from pipeline.data.store.index import IndexRow, read_rows
from pipeline.data.store.manifest import sha256
from pipeline.data.store.npy import decode_npy
from pipeline.data.store.store import Store
from pipeline.runtime.errors import UserError

# What is done and what there is to do, in bytes.
Progress = Callable[[int, int], None]

_MOST_NAMED = 20


@dataclass
class SplitReport:
    """What was found in one split. Sides in pixels; `wrong` names what is wrong, at most 20.

    `modes` counts what was decoded by Pillow's names of the pixels' kinds: RGB, L (grey) …
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
    wrong: list[str] = field(default_factory=list)
    num_wrong: int = 0

    def complain(self, what: str) -> None:
        self.num_wrong += 1
        if len(self.wrong) < _MOST_NAMED:
            self.wrong.append(what)


@dataclass(frozen=True)
class VerifyReport:
    """What was found in a data set."""

    store: Store
    splits: tuple[SplitReport, ...]

    @property
    def is_well(self) -> bool:
        return not any(split.num_wrong for split in self.splits)


def verify(store: Store, sample: int | None, progress: Progress) -> VerifyReport:
    """Read every byte of `store` and decode `sample` images of each split, or all for None.

    An image is well when its bytes have the digest that they were packed with and decode to the
    size that the index says. Files of another digest than recorded are named, and so are images. An
    index that has changed is not believed: the images of its split are not looked at.
    """
    total = sum(file.size for name in store.split_names for file in store.description(name).files)
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    return VerifyReport(store, tuple(_split(store, n, sample, advance) for n in store.split_names))


def _split(
    store: Store, name: str, sample: int | None, advance: Callable[[int], None]
) -> SplitReport:
    health = SplitReport(name)
    description = store.description(name)
    changed = []
    for file in description.files:
        if sha256(store.folder / file.name) != file.sha256:
            health.complain(f"{file.name}: its bytes have changed")
            changed.append(file)
        advance(file.size)
    if description.index in changed:
        return health
    try:
        split = store.split(name)
    except UserError as error:
        health.complain(str(error))
        return health
    count = len(split)
    chosen = np.ones(count, bool)
    if sample is not None and sample < count:
        chosen[np.random.default_rng(0).permutation(count)[sample:]] = False
    health.per_class = np.bincount(split.labels[split.labels >= 0], minlength=len(store.classes))
    health.shorter_sides = split.sizes.min(axis=1)
    largest = int(split.sizes.astype(np.int64).prod(axis=1).argmax())
    height, width = split.sizes[largest].tolist()
    health.largest = f"{width}×{height}, {split.keys[largest]}"
    good = 0
    for row in read_rows(store.folder / description.index.name):
        if row.treatment:
            health.treated[row.treatment] += 1
        if row.status != "ok":
            health.left_out[row.status] += 1
            continue
        health.num_bytes += row.size
        if chosen[good]:
            _image(health, row, split.encoded(good).tobytes(), split.location(good), store.contents)
        good += 1
    health.num_images = good
    return health


def _image(health: SplitReport, row: IndexRow, data: bytes, where: str, contents: str) -> None:
    health.num_decoded += 1
    if hashlib.sha256(data).digest() != row.sha256:
        health.complain(f"{where}: its bytes have changed")
        return
    if contents == "signals":
        try:
            decode_npy(np.frombuffer(data, np.uint8), row.width)
        except ValueError as error:
            health.complain(f"{where}: the signal {error}")
        return
    found = check_image(data)
    health.modes[found.mode] += found.status == "ok"
    if found.status != "ok":
        health.complain(f"{where}: {found.status}")
    elif (found.height, found.width) != (row.height, row.width):
        health.complain(
            f"{where}: is {found.width}×{found.height}, its index says {row.width}×{row.height}"
        )
