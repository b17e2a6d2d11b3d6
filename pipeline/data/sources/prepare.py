"""Making a packed data set from a source, unless it is there already."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
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
from pipeline.data.sources.mnist import FIELD, MNIST, KnownDigits, mnist_samples, read_digits
from pipeline.data.sources.mnist1d import mnist1d_samples
from pipeline.data.sources.naming import own_name
from pipeline.data.sources.webdataset import list_webdataset
from pipeline.data.store.image_check import Shrinking
from pipeline.data.store.packing import ProgressCallback, write_store
from pipeline.data.store.parallel_packing import SHARD_BYTES, Listing, find_bad, pack_parallel
from pipeline.data.store.store import Store
from pipeline.runtime.errors import UserError


@dataclass(frozen=True)
class Prepared:
    """A data set on disk, whether it was there before, and what is to be said of its source."""

    store: Store
    already_there: bool
    notes: tuple[str, ...] = ()


def prepare_digits(to: Path, progress: ProgressCallback) -> Prepared:
    """Pack scikit-learn's handwritten digits at `to`: 898 as train, 899 as val."""
    source = {"kind": "digits", "from": "sklearn.datasets.load_digits"}
    if existing := _existing(to, {"digits"}, source):
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
    if existing := _existing(to, {"mnist1d"}, source):
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
    known: KnownDigits = MNIST,
) -> Prepared:
    """Pack IDX files of digits at `to` (`pipeline.data.sources.mnist`).

    Without test files, `val_share` of each class is held out as val. The data set is called `mnist`
    if the files are the `known` ones, else by the name of `to`: Fashion-MNIST's look alike. Raises
    `UserError` for files that are not in MNIST's format, and when `to` holds something else or
    can't be written.
    """
    if (test_images is None) != (test_labels is None):
        raise UserError("--test-images and --test-labels belong together; give both or neither")
    if not 0 < val_share < 1:
        raise UserError(f"--val-share {val_share}: must be between 0 and 1")
    train = read_digits(images, labels)
    test = read_digits(test_images, test_labels) if test_images and test_labels else None
    second = {"test": test.digest} if test else {"val_share": val_share}
    source = {"kind": "mnist", "train": train.digest, **second, "padded_to": FIELD}
    is_known = train.md5 == known.train and (test is None or test.md5 == known.test)
    asked = to.absolute().name
    name = "mnist" if is_known else own_name(asked)
    if existing := _existing(to, {name}, source):
        return existing
    store = write_store(
        to.absolute(),
        name=name,
        classes=DIGIT_CLASSES,
        splits=mnist_samples(train, test, val_share, progress),
        source=source,
    )
    return Prepared(store, already_there=False, notes=_name_note(name, asked))


def prepare_folder(
    source: Path,
    to: Path,
    name: str,
    *,
    val_share: float = 0.1,
    only_val: bool = False,
    labels: Path | None = None,
    follow_links: bool = False,
    on_bad: str,
    num_workers: int,
    progress: ProgressCallback,
) -> Prepared:
    """Pack the folder of images `source` at `to`, under `name` (`pipeline.data.sources.folder`).

    Raises `UserError` for a folder that is no data set, and as `prepare_listing`.
    """
    if to.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{to}: lies in the folder of images itself; choose another place")
    listing = list_folder(
        source, val_share, only_val=only_val, labels=labels, follow_links=follow_links
    )
    return prepare_listing(
        listing, to, name, on_bad=on_bad, num_workers=num_workers, progress=progress
    )


def prepare_ilsvrc2012(
    sources: Sources,
    to: Path,
    *,
    subset: Subset = WHOLE,
    shrinking: Shrinking | None = None,
    follow_links: bool = False,
    checking: ProgressCallback | None,
    on_bad: str = "quarantine",
    num_workers: int,
    progress: ProgressCallback,
    edition: Edition = ILSVRC2012,
    shard_bytes: int = SHARD_BYTES,
) -> Prepared:
    """Pack ILSVRC-2012 at `to` from its archives, folders or Kaggle (`…sources.ilsvrc2012`).

    `checking` is called with bytes while the archives' MD5 sums are compared first (None: they
    aren't). Archives whose sums are the official ones are called `ilsvrc2012`, as published results
    call them; anything else by the name of `to`, and a `subset` by a name of its own. Raises
    `UserError` for archives that are incomplete or of another edition, and as `prepare_listing`.
    """
    listing = list_ilsvrc2012(sources, subset, edition, follow_links)
    identity = {
        "kind": "ilsvrc2012",
        "edition": "ILSVRC-2012" if subset.is_whole else "a subset of ILSVRC-2012",
        **vars(subset),
        "shrinking": vars(shrinking) if shrinking else None,
        **listing.identity,
    }
    are_archives = all(path.is_file() for path in sources.items().values())
    is_official = checking is not None and are_archives and subset.is_whole
    name = own_name(to.absolute().name) if subset.is_whole else "ilsvrc2012-subset"
    return prepare_listing(
        replace(listing, identity=identity),
        to,
        name,
        official_name="ilsvrc2012" if subset.is_whole else None,
        before=(lambda: compare_checksums(sources, checking, edition)) if checking else None,
        is_official=is_official,
        on_bad=on_bad,
        num_workers=num_workers,
        progress=progress,
        shrinking=shrinking,
        shard_bytes=shard_bytes,
    )


def prepare_webdataset(
    source: Path,
    to: Path,
    name: str,
    *,
    split: str | None = None,
    label_key: str | None = None,
    on_bad: str = "stop",
    num_workers: int,
    progress: ProgressCallback,
) -> Prepared:
    """Pack the WebDataset shards of folder `source` at `to`, under `name`.

    Raises `UserError` for what `list_webdataset` refuses, and as `prepare_listing`.
    """
    return prepare_listing(
        list_webdataset(source, split=split, label_key=label_key),
        to,
        name,
        on_bad=on_bad,
        num_workers=num_workers,
        progress=progress,
    )


def prepare_listing(
    listing: Listing,
    to: Path,
    name: str,
    *,
    official_name: str | None = None,
    is_official: bool = False,
    before: Callable[[], None] | None = None,
    on_bad: str,
    num_workers: int,
    progress: ProgressCallback,
    shrinking: Shrinking | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Prepared:
    """Pack what an importer lists at `to`, under `name`, unless it is there.

    A published name is not given, but for `official_name` where the source `is_official`. `before`
    is called before packing. `on_bad` is "stop" or "quarantine"; `progress` is called with bytes.
    Raises `UserError` for bad images (with "stop"), and when `to` holds something else or can't be
    written. Continues an earlier call that was interrupted.
    """
    if on_bad not in ("stop", "quarantine"):
        raise UserError(f"--on-bad {on_bad}: must be stop or quarantine")
    origin = {**listing.identity, "part_bytes": shard_bytes}
    name, asked = official_name if official_name and is_official else own_name(name), name
    notes = (*listing.notes, *_name_note(name, asked))
    if existing := _existing(to, {name, official_name or name}, origin):
        if existing.store.num_quarantined and on_bad == "stop":
            raise UserError(
                f"{to}: is there already, without {existing.store.num_quarantined} bad images; add "
                "--on-bad quarantine if that is meant, or remove it"
            )
        return replace(existing, notes=notes)
    if before:
        before()
    store = pack_parallel(
        to.absolute(),
        name=name,
        listing=listing,
        source=origin,
        num_workers=num_workers,
        progress=progress,
        shrinking=shrinking,
        keep_bad=on_bad == "quarantine",
        shard_bytes=shard_bytes,
    )
    return Prepared(store, already_there=False, notes=notes)


def bad_images(
    listing: Listing, near: Path, num_workers: int, progress: ProgressCallback
) -> list[str]:
    """Decode all images of a listing, pack none; return the place and fault of each bad one.

    Scratch files lie in the folder of `near` meanwhile, which all workers see.
    """
    folder = near.absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=f".{near.name}.checked-") as scratch:
        return find_bad(listing, Path(scratch), num_workers, progress)


def _name_note(name: str, asked: str) -> tuple[str, ...]:
    if name == own_name(asked) != asked:
        return (
            f"called '{name}': '{asked}' is a name of published results, which only files of known "
            "digests get",
        )
    return ()


def _existing(to: Path, names: set[str], source: Mapping[str, Any]) -> Prepared | None:
    """Return the data set at `to`, or None; `UserError` if another one is there."""
    folder = to.absolute()
    if not folder.exists():
        return None
    store = Store.open(folder)
    if store.name not in names or store.source != source:
        raise UserError(
            f"{folder}: holds a data set ('{store.name}') of another source or other options; "
            "remove it or choose another place with --to"
        )
    return Prepared(store, already_there=True)
