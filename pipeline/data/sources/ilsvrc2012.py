"""ILSVRC-2012 from its official archives, or from folders they were extracted to.

The training archive is a tar of one tar a synset; validation and test archives are flat. Images are
read where they lie in the archives, so that 1.28 million files are never unpacked.
"""

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.sources.devkit import Devkit, read_devkit
from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.packing import Progress
from pipeline.data.store.parallel_packing import Images, Listing
from pipeline.data.store.tar_listing import Member, list_members
from pipeline.runtime.errors import InterruptedByUserError, UserError

_SYNSET = re.compile(r"n\d{8}\.tar")
_TRAIN = re.compile(r"n\d{8}_\d+\.JPEG")
_VAL = re.compile(r"(?:val/)?ILSVRC2012_val_\d{8}\.JPEG|val")
_TEST = re.compile(r"(?:test/)?ILSVRC2012_test_\d{8}\.JPEG|test")
_BLOCK = 2**22


@dataclass(frozen=True)
class Edition:
    """What the official archives hold (development kit of 2012, and the archives' MD5 sums)."""

    num_classes: int
    images_per_class: tuple[int, int]
    num_images: Mapping[str, int]
    first_val_labels: tuple[int, ...]
    md5: Mapping[str, str]


ILSVRC2012 = Edition(
    num_classes=1000,
    images_per_class=(732, 1300),
    num_images={"train": 1_281_167, "val": 50_000, "test": 100_000},
    first_val_labels=(65, 970, 230, 809, 516),
    md5={
        "train": "1d675b47d978889d74fa0da5fadfb00e",
        "val": "29b22e2961454d5413ddabcf34fc5622",
        "devkit": "fa75699e90414af021442c21a62c3abf",
        "test": "e1b8681fff3d63731c599df9b4b6fc02",
    },
)


@dataclass(frozen=True)
class Sources:
    """The archives, or folders of what was in them; the test images may be left out."""

    train: Path
    val: Path
    devkit: Path
    test: Path | None = None

    def items(self) -> dict[str, Path]:
        return {name: path for name, path in vars(self).items() if path is not None}


@dataclass(frozen=True)
class Subset:
    """The first classes by WNID, and the first images of each by name; None: all."""

    classes: int | None = None
    images_per_class: int | None = None

    @property
    def is_whole(self) -> bool:
        return self.classes is None and self.images_per_class is None


WHOLE = Subset()


def list_ilsvrc2012(sources: Sources, subset: Subset, edition: Edition = ILSVRC2012) -> Listing:
    """List all images without reading them, and compare their numbers with the `edition`.

    Raises `UserError` for archives that hold anything else, by the first name or number that is
    wrong. Of a `subset` only what is chosen must be there.
    """
    kit = read_devkit(sources.devkit)
    classes = kit.classes[: subset.classes]
    if subset.classes and len(classes) < subset.classes:
        raise UserError(f"--classes {subset.classes}: the devkit has {len(kit.classes)}")
    if sources.test and not subset.is_whole:
        raise UserError("--test: a subset has no test images, whose classes nobody knows")
    splits = {
        "train": list_train(sources.train, classes, subset),
        "val": _val(sources.val, kit, len(classes), subset),
    }
    if sources.test:
        found = _flat(sources.test, _TEST)
        splits["test"] = Images.of([(_stem(member), member, -1) for member in found])
    if subset.is_whole:
        _compare(kit, splits, edition)
    sizes = {split: int(images.sizes.sum()) for split, images in splits.items()}
    return Listing(classes, splits, {"sizes": sizes})


def compare_checksums(sources: Sources, progress: Progress, edition: Edition = ILSVRC2012) -> None:
    """Read every archive whole; raises `UserError` for one whose MD5 sum is not the official one.

    The first one that differs ends it, and so does Ctrl-C, which becomes `InterruptedByUserError`.
    Folders have none, and are passed over. `progress` is told bytes.
    """
    archives = {name: path for name, path in sources.items().items() if path.is_file()}
    total = sum(path.stat().st_size for path in archives.values())
    read = dict.fromkeys(archives, 0)
    ended = threading.Event()

    def md5(name: str) -> str:
        digest = hashlib.md5(usedforsecurity=False)
        with archives[name].open("rb") as opened:
            while not ended.is_set() and (block := opened.read(_BLOCK)):
                digest.update(block)
                read[name] += len(block)
                progress(sum(read.values()), total)
        return digest.hexdigest()

    with ThreadPoolExecutor() as threads:
        try:
            names = {threads.submit(md5, name): name for name in archives}
            for each in as_completed(names):
                _compare_checksum(archives[names[each]], each.result(), edition.md5[names[each]])
        except KeyboardInterrupt:
            raise InterruptedByUserError(
                "stopped while MD5 sums were compared; the same command begins with them again"
            ) from None
        finally:
            ended.set()


def _compare_checksum(archive: Path, found: str, official: str) -> None:
    if found != official:
        raise UserError(
            f"{archive}: MD5 {found}, the official archive has {official}; download it again, or "
            "use --no-checksum for one that is meant to differ"
        )


def list_train(place: Path, classes: tuple[ImageClass, ...], subset: Subset = WHOLE) -> Images:
    """List the training images of `classes` in their archive, or in the folder it was unpacked to.

    Raises `UserError` as `list_ilsvrc2012` does.
    """
    inner = {} if place.is_dir() else {m.name: m for m in list_members(place, _SYNSET)}
    chosen: list[Images] = []
    for each in classes:
        if place.is_dir():
            members = _folder(place / each.name, _TRAIN)
        elif f"{each.name}.tar" in inner:
            members = sorted(list_members(place, _TRAIN, inner.pop(f"{each.name}.tar")), key=_stem)
        else:
            raise UserError(f"{place}: has no {each.name}.tar; download it again")
        members = members[: subset.images_per_class]
        for member in members:
            if not member.name.startswith(f"{each.name}_"):
                raise UserError(f"{place}: {member.name} is in the archive of {each.name}")
        if not members:
            raise UserError(f"{place}: class {each.name} has no images; download it again")
        chosen.append(Images.of([(_stem(member), member, each.index) for member in members]))
    if inner and subset.is_whole:
        raise UserError(f"{place}: {min(inner)} is of no class of the devkit")
    return Images.joined(chosen)


def _val(place: Path, kit: Devkit, num_classes: int, subset: Subset) -> Images:
    found = _flat(place, _VAL)
    if len(found) != len(kit.val_labels):
        raise UserError(
            f"{place}: {len(found):,} images, the devkit labels {len(kit.val_labels):,}; do they "
            "belong together?"
        )
    taken: Counter[int] = Counter()
    chosen = []
    for member, label in zip(found, kit.val_labels, strict=True):
        limit = subset.images_per_class
        if label < num_classes and (limit is None or taken[label] < limit):
            taken[label] += 1
            chosen.append((_stem(member), member, label))
    return Images.of(chosen)


def _flat(place: Path, names: re.Pattern[str]) -> list[Member]:
    """Return the images, whose numbers must be 1, 2, 3 …"""
    if place.is_dir():
        found = [m for folder in (place, *_folders(place)) for m in _folder(folder, names)]
    else:
        found = list(list_members(place, names))
    found.sort(key=_stem)
    for number, member in enumerate(found, start=1):
        if int(_stem(member)[-8:]) != number:
            raise UserError(f"{place}: image {number} is missing or there twice; get it again")
    return found


def _folders(place: Path) -> Iterator[Path]:
    return (path for path in sorted(place.iterdir()) if path.is_dir() and not path.is_symlink())


def _folder(folder: Path, names: re.Pattern[str]) -> list[Member]:
    """Return the plain files of `folder` that are named as images are, by name."""
    try:
        files = sorted(path for path in folder.iterdir() if names.fullmatch(path.name))
        return [
            Member(path.name, path, 0, path.lstat().st_size)
            for path in files
            if path.is_file() and not path.is_symlink()
        ]
    except OSError as error:
        raise UserError(f"{folder}: can't be listed ({error.strerror}); see to it") from None


def _stem(member: Member) -> str:
    return member.name.rsplit("/", 1)[-1].removesuffix(".JPEG")


def _compare(kit: Devkit, splits: Mapping[str, Images], edition: Edition) -> None:
    if len(kit.classes) != edition.num_classes:
        raise UserError(f"devkit: {len(kit.classes)} classes, expected {edition.num_classes}")
    for split, images in splits.items():
        expected = edition.num_images[split]
        if len(images) != expected:
            raise UserError(f"{split}: {len(images):,} images, expected {expected:,}")
    low, high = edition.images_per_class
    counts = np.bincount(splits["train"].labels, minlength=len(kit.classes))
    for each, count in zip(kit.classes, counts.tolist(), strict=True):
        if not low <= count <= high:
            raise UserError(f"train: {each.name} has {count} images, expected {low} to {high}")
    each_val = edition.num_images["val"] // edition.num_classes
    for each, count in zip(kit.classes, np.bincount(kit.val_labels).tolist(), strict=True):
        if count != each_val:
            raise UserError(f"val: {each.name} has {count} images, expected {each_val}")
    first = kit.val_labels[: len(edition.first_val_labels)]
    if first != edition.first_val_labels:
        raise UserError(
            f"val: the first images have labels {first}, expected {edition.first_val_labels}; the "
            "devkit is another"
        )
