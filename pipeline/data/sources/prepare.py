"""Make a packed data set from a source, unless it is there already."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.sources.digits import digits_classes, digits_samples
from pipeline.data.sources.folder import list_folder
from pipeline.data.sources.ilsvrc2012 import (
    ILSVRC2012,
    WHOLE,
    Edition,
    Sources,
    Subset,
    compare_checksums,
    list_ilsvrc2012,
)
from pipeline.data.sources.mnist import FIELD, mnist_classes, mnist_samples, read_digits
from pipeline.data.sources.mnist1d import mnist1d_classes, mnist1d_samples
from pipeline.data.sources.webdataset import list_webdataset
from pipeline.data.store.image_check import Shrinking
from pipeline.data.store.manifest import Contents
from pipeline.data.store.packing import Progress, Sample
from pipeline.data.store.parallel_packing import PART_BYTES, pack_parallel
from pipeline.data.store.store import ImageClass, Store, write_store
from pipeline.runtime.errors import UserError


@dataclass(frozen=True)
class Prepared:
    """A data set on disk; `num_quarantined` images are in its index but not in its shards."""

    store: Store
    already_there: bool

    @property
    def num_quarantined(self) -> int:
        return self.store.num_quarantined


def prepare_digits(to: Path, progress: Progress) -> Prepared:
    """Pack scikit-learn's handwritten digits at `to`: 898 as train, 899 as val."""
    source = {"kind": "digits", "from": "sklearn.datasets.load_digits"}
    return _prepare(to, "digits", source, digits_classes(), lambda: digits_samples(progress))


def prepare_mnist1d(to: Path, progress: Progress) -> Prepared:
    """Pack MNIST-1D at `to`: 4,000 signals as train, 1,000 as test."""
    source = {"kind": "mnist1d", "from": "mnist1d.data.make_dataset"}
    return _prepare(
        to, "mnist1d", source, mnist1d_classes(), lambda: mnist1d_samples(progress), "signals"
    )


def prepare_mnist(
    images: Path,
    labels: Path,
    test_images: Path | None,
    test_labels: Path | None,
    to: Path,
    val_share: float,
    progress: Progress,
) -> Prepared:
    """Pack IDX files of digits at `to` (`pipeline.data.sources.mnist`).

    Without test files, `val_share` of each class is held out as val. Raises `UserError` for files
    that are not MNIST's kind, and when `to` holds something else or can't be written.
    """
    if (test_images is None) != (test_labels is None):
        raise UserError("--test-images and --test-labels belong together; give both or neither")
    if not 0 < val_share < 1:
        raise UserError(f"--val-share {val_share}: must be between 0 and 1")
    train = read_digits(images, labels)
    test = read_digits(test_images, test_labels) if test_images and test_labels else None
    second = {"test": test.digest} if test else {"val_share": val_share}
    source = {"kind": "mnist", "train": train.digest, **second, "padded_to": FIELD}
    return _prepare(
        to,
        "mnist",
        source,
        mnist_classes(),
        lambda: mnist_samples(train, test, val_share, progress),
    )


def prepare_folder(
    source: Path,
    to: Path,
    name: str,
    *,
    val_share: float,
    on_bad: str,
    num_workers: int,
    progress: Progress,
) -> Prepared:
    """Pack the folder of images `source` at `to`, under `name` (`pipeline.data.sources.folder`).

    `on_bad` is "stop" or "quarantine"; `progress` is told bytes. Raises `UserError` for a folder
    that is no data set, for bad images (with "stop"), and when `to` holds something else or can't
    be written. What was packed by an earlier call that was stopped is kept.
    """
    if on_bad not in ("stop", "quarantine"):
        raise UserError(f"--on-bad {on_bad}: must be stop or quarantine")
    if to.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{to}: lies in the folder of images itself; choose another place")
    listing = list_folder(source, val_share)
    made_from = {
        "kind": "folder",
        **listing.identity,
        "val_share": val_share,
        "part_bytes": PART_BYTES,
    }

    def pack(folder: Path) -> Store:
        return pack_parallel(
            folder,
            name=name,
            listing=listing,
            source=made_from,
            places={"folder": str(source.absolute())},
            num_workers=num_workers,
            progress=progress,
            keep_bad=on_bad == "quarantine",
        )

    prepared = _once(to, name, made_from, pack)
    if prepared.num_quarantined and on_bad == "stop":
        raise UserError(
            f"{to}: is there already, without {prepared.num_quarantined} bad images; add --on-bad "
            "quarantine if that is meant, or remove it"
        )
    return prepared


def prepare_ilsvrc2012(
    sources: Sources,
    to: Path,
    *,
    subset: Subset = WHOLE,
    shrinking: Shrinking | None = None,
    checking: Progress | None,
    num_workers: int,
    progress: Progress,
    edition: Edition = ILSVRC2012,
    part_bytes: int = PART_BYTES,
) -> Prepared:
    """Pack ILSVRC-2012 at `to` from its archives or folders (`pipeline.data.sources.ilsvrc2012`).

    A `subset` has a name of its own, since published results are of the whole.
    `progress` is told bytes; so is `checking`, of the archives whose MD5 sums are compared first
    (None: they are not). Raises `UserError` for archives that are not whole or of another edition,
    and when `to` holds something else or can't be written. What was packed by an earlier call that
    was stopped is kept.
    """
    listing = list_ilsvrc2012(sources, subset, edition)
    name = "ilsvrc2012" if subset.is_whole else "ilsvrc2012-subset"
    made_from = {
        "kind": "ilsvrc2012",
        "edition": "ILSVRC-2012" if subset.is_whole else "a subset of ILSVRC-2012",
        **vars(subset),
        "shrinking": vars(shrinking) if shrinking else None,
        "part_bytes": part_bytes,
        **listing.identity,
    }

    def pack(folder: Path) -> Store:
        if checking:
            compare_checksums(sources, checking, edition)
        return pack_parallel(
            folder,
            name=name,
            listing=listing,
            source=made_from,
            places={name: str(path) for name, path in sources.items().items()},
            num_workers=num_workers,
            progress=progress,
            shrinking=shrinking,
            part_bytes=part_bytes,
        )

    return _once(to, name, made_from, pack)


def prepare_webdataset(
    source: Path, to: Path, name: str, *, num_workers: int, progress: Progress
) -> Prepared:
    """Pack the WebDataset shards of folder `source` at `to`, under `name`.

    `progress` is told bytes. Raises `UserError` for what `webdataset` refuses, and when
    `to` holds something else or can't be written.
    """
    listing = list_webdataset(source)
    made_from = {"kind": "webdataset", **listing.identity, "part_bytes": PART_BYTES}

    def pack(folder: Path) -> Store:
        return pack_parallel(
            folder,
            name=name,
            listing=listing,
            source=made_from,
            places={"folder": str(source)},
            num_workers=num_workers,
            progress=progress,
        )

    return _once(to, name, made_from, pack)


def _prepare(
    to: Path,
    name: str,
    source: Mapping[str, Any],
    classes: Sequence[ImageClass],
    read: Callable[[], Mapping[str, Iterable[Sample]]],
    contents: Contents = "images",
) -> Prepared:
    def pack(folder: Path) -> Store:
        return write_store(
            folder, name=name, classes=classes, splits=read(), source=source, contents=contents
        )

    return _once(to, name, source, pack)


def _once(
    to: Path, name: str, source: Mapping[str, Any], pack: Callable[[Path], Store]
) -> Prepared:
    folder = to.absolute()
    if not folder.exists():
        with warnings.catch_warnings():
            # Pillow warns of odd metadata, which nothing here reads, and of sizes that are refused.
            warnings.simplefilter("ignore")
            return Prepared(pack(folder), already_there=False)
    store = Store.open(folder)
    if (store.name, store.source) != (name, source):
        raise UserError(
            f"{folder}: holds a data set ('{store.name}') of another source or other options; "
            "remove it or choose another place with --to"
        )
    return Prepared(store, already_there=True)
