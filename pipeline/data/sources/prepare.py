"""Making a packed data set from a source, unless it is there already."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.sources.digits import DIGIT_CLASSES, digits_samples
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
from pipeline.data.sources.mnist import FIELD, mnist_samples, read_digits
from pipeline.data.sources.mnist1d import mnist1d_samples
from pipeline.data.sources.webdataset import list_webdataset
from pipeline.data.store.image_check import Shrinking
from pipeline.data.store.packing import ProgressCallback, write_store
from pipeline.data.store.parallel_packing import SHARD_BYTES, pack_parallel
from pipeline.data.store.store import Store
from pipeline.runtime.errors import UserError


@dataclass(frozen=True)
class Prepared:
    """A data set on disk, and whether it was there before."""

    store: Store
    already_there: bool


def prepare_digits(to: Path, progress: ProgressCallback) -> Prepared:
    """Pack scikit-learn's handwritten digits at `to`: 898 as train, 899 as val."""
    source = {"kind": "digits", "from": "sklearn.datasets.load_digits"}
    if existing := _existing(to, "digits", source):
        return existing
    store = write_store(
        to.absolute(),
        name="digits",
        classes=DIGIT_CLASSES,
        splits=digits_samples(progress),
        source=source,
    )
    return Prepared(store, already_there=False)


def prepare_mnist1d(to: Path, progress: ProgressCallback) -> Prepared:
    """Pack MNIST-1D at `to`: 4,000 signals as train, 1,000 as test."""
    source = {"kind": "mnist1d", "from": "mnist1d.data.make_dataset"}
    if existing := _existing(to, "mnist1d", source):
        return existing
    store = write_store(
        to.absolute(),
        name="mnist1d",
        classes=DIGIT_CLASSES,
        splits=mnist1d_samples(progress),
        source=source,
        contents="signals",
    )
    return Prepared(store, already_there=False)


def prepare_mnist(
    images: Path,
    labels: Path,
    test_images: Path | None,
    test_labels: Path | None,
    to: Path,
    val_share: float,
    progress: ProgressCallback,
) -> Prepared:
    """Pack IDX files of digits at `to` (`pipeline.data.sources.mnist`).

    Without test files, `val_share` of each class is held out as val. Raises `UserError` for files
    that are not in MNIST's format, and when `to` holds something else or can't be written.
    """
    if (test_images is None) != (test_labels is None):
        raise UserError("--test-images and --test-labels belong together; give both or neither")
    if not 0 < val_share < 1:
        raise UserError(f"--val-share {val_share}: must be between 0 and 1")
    train = read_digits(images, labels)
    test = read_digits(test_images, test_labels) if test_images and test_labels else None
    second = {"test": test.digest} if test else {"val_share": val_share}
    source = {"kind": "mnist", "train": train.digest, **second, "padded_to": FIELD}
    if existing := _existing(to, "mnist", source):
        return existing
    store = write_store(
        to.absolute(),
        name="mnist",
        classes=DIGIT_CLASSES,
        splits=mnist_samples(train, test, val_share, progress),
        source=source,
    )
    return Prepared(store, already_there=False)


def prepare_folder(
    source: Path,
    to: Path,
    name: str,
    *,
    val_share: float,
    on_bad: str,
    num_workers: int,
    progress: ProgressCallback,
) -> Prepared:
    """Pack the folder of images `source` at `to`, under `name` (`pipeline.data.sources.folder`).

    `on_bad` is "stop" or "quarantine"; `progress` is called with bytes. Raises `UserError` for a
    folder that is no data set, for bad images (with "stop"), and when `to` holds something else or
    can't be written. Continues an earlier call that was interrupted.
    """
    if on_bad not in ("stop", "quarantine"):
        raise UserError(f"--on-bad {on_bad}: must be stop or quarantine")
    if to.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{to}: lies in the folder of images itself; choose another place")
    listing = list_folder(source, val_share)
    origin = {
        "kind": "folder",
        **listing.identity,
        "val_share": val_share,
        "part_bytes": SHARD_BYTES,
    }
    if existing := _existing(to, name, origin):
        if existing.store.num_quarantined and on_bad == "stop":
            raise UserError(
                f"{to}: is there already, without {existing.store.num_quarantined} bad images; add "
                "--on-bad quarantine if that is meant, or remove it"
            )
        return existing
    store = pack_parallel(
        to.absolute(),
        name=name,
        listing=listing,
        source=origin,
        places={"folder": str(source.absolute())},
        num_workers=num_workers,
        progress=progress,
        keep_bad=on_bad == "quarantine",
    )
    return Prepared(store, already_there=False)


def prepare_ilsvrc2012(
    sources: Sources,
    to: Path,
    *,
    subset: Subset = WHOLE,
    shrinking: Shrinking | None = None,
    checking: ProgressCallback | None,
    num_workers: int,
    progress: ProgressCallback,
    edition: Edition = ILSVRC2012,
    shard_bytes: int = SHARD_BYTES,
) -> Prepared:
    """Pack ILSVRC-2012 at `to` from its archives or folders (`pipeline.data.sources.ilsvrc2012`).

    A `subset` has a name of its own, since published results are of the whole. `progress` is called
    with bytes, and so is `checking` while the archives' MD5 sums are compared first (None: they
    aren't). Raises `UserError` for archives that are incomplete or of another edition, and when
    `to` holds something else or can't be written. Continues an earlier call that was interrupted.
    """
    listing = list_ilsvrc2012(sources, subset, edition)
    name = "ilsvrc2012" if subset.is_whole else "ilsvrc2012-subset"
    origin = {
        "kind": "ilsvrc2012",
        "edition": "ILSVRC-2012" if subset.is_whole else "a subset of ILSVRC-2012",
        **vars(subset),
        "shrinking": vars(shrinking) if shrinking else None,
        "part_bytes": shard_bytes,
        **listing.identity,
    }

    if existing := _existing(to, name, origin):
        return existing
    if checking:
        compare_checksums(sources, checking, edition)
    store = pack_parallel(
        to.absolute(),
        name=name,
        listing=listing,
        source=origin,
        places={name: str(path) for name, path in sources.items().items()},
        num_workers=num_workers,
        progress=progress,
        shrinking=shrinking,
        shard_bytes=shard_bytes,
    )
    return Prepared(store, already_there=False)


def prepare_webdataset(
    source: Path, to: Path, name: str, *, num_workers: int, progress: ProgressCallback
) -> Prepared:
    """Pack the WebDataset shards of folder `source` at `to`, under `name`.

    `progress` is called with bytes. Raises `UserError` for what `list_webdataset` refuses, and when
    `to` holds something else or can't be written.
    """
    listing = list_webdataset(source)
    origin = {"kind": "webdataset", **listing.identity, "part_bytes": SHARD_BYTES}
    if existing := _existing(to, name, origin):
        return existing
    store = pack_parallel(
        to.absolute(),
        name=name,
        listing=listing,
        source=origin,
        places={"folder": str(source)},
        num_workers=num_workers,
        progress=progress,
    )
    return Prepared(store, already_there=False)


def _existing(to: Path, name: str, source: Mapping[str, Any]) -> Prepared | None:
    """Return the data set at `to`, or None; `UserError` if another one is there."""
    folder = to.absolute()
    if not folder.exists():
        return None
    store = Store.open(folder)
    if (store.name, store.source) != (name, source):
        raise UserError(
            f"{folder}: holds a data set ('{store.name}') of another source or other options; "
            "remove it or choose another place with --to"
        )
    return Prepared(store, already_there=True)
