"""Make a packed data set from a source, unless it is there already."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.checking import read_images
from pipeline.data.digits import digits_classes, digits_samples
from pipeline.data.folder import list_folder
from pipeline.data.packing import Progress, Sample
from pipeline.data.store import ImageClass, Store, write_store
from pipeline.errors import UserError


@dataclass(frozen=True)
class Prepared:
    """A data set on disk; `num_quarantined` images are in its index but not in its shards."""

    store: Store
    already_there: bool

    @property
    def num_quarantined(self) -> int:
        return self.store.num_quarantined


def prepare_digits(to: Path, progress: Progress) -> Prepared:
    """Pack scikit-learn's handwritten digits at `to`: 898 to train, 899 to test."""
    source = {"kind": "digits", "from": "sklearn.datasets.load_digits"}
    return _prepare(to, "digits", source, digits_classes(), lambda: digits_samples(progress))


def prepare_folder(
    source: Path, to: Path, name: str, val_share: float, on_bad: str, progress: Progress
) -> Prepared:
    """Pack the folder of images `source` at `to`, under `name` (`pipeline.data.folder`).

    `on_bad` is "stop" or "quarantine". Raises `UserError` for a folder that is no data set, for
    bad images (with "stop"), and when `to` holds something else or can't be written.
    """
    if on_bad not in ("stop", "quarantine"):
        raise UserError(f"--on-bad {on_bad}: must be stop or quarantine")
    if to.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{to}: lies in the folder of images itself; choose another place")
    listing = list_folder(source, val_share)
    made_from = {
        "kind": "folder",
        "fingerprint": listing.fingerprint,
        "val_share": val_share,
        "on_bad": on_bad,
    }
    with warnings.catch_warnings():
        # Pillow warns of odd metadata, which nothing here reads, and of sizes that are refused.
        warnings.simplefilter("ignore")
        return _prepare(
            to,
            name,
            made_from,
            listing.classes,
            lambda: read_images(listing.splits, on_bad == "quarantine", progress),
        )


def _prepare(
    to: Path,
    name: str,
    source: Mapping[str, Any],
    classes: Sequence[ImageClass],
    read: Callable[[], Mapping[str, Iterable[Sample]]],
) -> Prepared:
    folder = to.absolute()
    if folder.exists():
        store = Store.open(folder)
        if (store.name, store.source) != (name, source):
            raise UserError(
                f"{to}: holds a data set ('{store.name}') of another source or other options; "
                "remove it or choose another place with --to"
            )
        return Prepared(store, already_there=True)
    store = write_store(folder, name=name, classes=classes, splits=read(), source=source)
    return Prepared(store, already_there=False)
