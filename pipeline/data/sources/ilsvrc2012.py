"""ILSVRC-2012 from its official archives, or from folders they were extracted to.

The training archive is a tar of one tar per synset; validation and test archives are flat. Images
are read from inside the archives, so that 1.28 million files are never unpacked.
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
from pipeline.data.store.packing import ProgressCallback
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
    """The content of the official archives (by the development kit of 2012), and their MD5 sums."""

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
    """The archives, or folders with their content; the test images may be left out."""

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
    """List all images without reading them, and compare their counts with the `edition`.

    Raises `UserError` that names the first wrong member or count of an archive. Of a `subset` only
    the chosen images must be there.
    """
    kit = read_devkit(sources.devkit)
    classes = kit.classes[: subset.classes]
    if subset.classes and len(classes) < subset.classes:
        raise UserError(f"--classes {subset.classes}: the devkit has {len(kit.classes)}")
    if sources.test and not subset.is_whole:
        raise UserError("--test: a subset has no test images, as their classes are secret")
    splits = {
        "train": list_train(sources.train, classes, subset),
        "val": _val(sources.val, kit, len(classes), subset),
    }
    if sources.test:
        found = _flat(sources.test, _TEST)
        splits["test"] = Images.of((_stem(member), member, -1) for member in found)
    if subset.is_whole:
        _check_counts(kit, splits, edition)
    sizes = {split: int(images.sizes.sum()) for split, images in splits.items()}
    return Listing(classes, splits, {"sizes": sizes})


def compare_checksums(
    sources: Sources, progress: ProgressCallback, edition: Edition = ILSVRC2012
) -> None:
    """Read every archive; raises `UserError` for the first whose MD5 sum isn't the official one.

    Folders are skipped. Ctrl-C becomes `InterruptedByUserError`. `progress` is called with bytes.
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


def list_train(path: Path, classes: tuple[ImageClass, ...], subset: Subset = WHOLE) -> Images:
    """List the training images of `classes` in the archive, or in the folder it was extracted to.

    Raises `UserError` as `list_ilsvrc2012` does.
    """
    return Images.of(_train_images(path, classes, subset))


def _train_images(
    path: Path, classes: tuple[ImageClass, ...], subset: Subset
) -> Iterator[tuple[str, Member, int]]:
    inner = {} if path.is_dir() else {m.name: m for m in list_members(path, _SYNSET)}
    for each in classes:
        if path.is_dir():
            members = _folder(path / each.name, _TRAIN)
        elif f"{each.name}.tar" in inner:
            members = sorted(list_members(path, _TRAIN, inner.pop(f"{each.name}.tar")), key=_stem)
        else:
            raise UserError(f"{path}: has no {each.name}.tar; download it again")
        members = members[: subset.images_per_class]
        for member in members:
            if not member.name.startswith(f"{each.name}_"):
                raise UserError(f"{path}: {member.name} is in the archive of {each.name}")
        if not members:
            raise UserError(f"{path}: class {each.name} has no images; download it again")
        yield from ((_stem(member), member, each.index) for member in members)
    if inner and subset.is_whole:
        raise UserError(f"{path}: {min(inner)} is of no class of the devkit")


def _val(path: Path, kit: Devkit, num_classes: int, subset: Subset) -> Images:
    found = _flat(path, _VAL)
    if len(found) != len(kit.val_labels):
        raise UserError(
            f"{path}: {len(found):,} images, the devkit labels {len(kit.val_labels):,}; do they "
            "belong together?"
        )
    num_chosen: Counter[int] = Counter()
    chosen = []
    for member, label in zip(found, kit.val_labels, strict=True):
        limit = subset.images_per_class
        if label < num_classes and (limit is None or num_chosen[label] < limit):
            num_chosen[label] += 1
            chosen.append((_stem(member), member, label))
    return Images.of(chosen)


def _flat(path: Path, names: re.Pattern[str]) -> list[Member]:
    """Return the images, whose numbers must be 1, 2, 3 …"""
    if path.is_dir():
        found = [m for folder in (path, *_folders(path)) for m in _folder(folder, names)]
    else:
        found = list(list_members(path, names))
    found.sort(key=_stem)
    for number, member in enumerate(found, start=1):
        if int(_stem(member)[-8:]) != number:
            raise UserError(f"{path}: image {number} is missing or there twice; get it again")
    return found


def _folders(path: Path) -> Iterator[Path]:
    return (each for each in sorted(path.iterdir()) if each.is_dir() and not each.is_symlink())


def _folder(folder: Path, names: re.Pattern[str]) -> list[Member]:
    """Return the regular files of `folder` whose names match `names`, by name."""
    try:
        files = sorted(path for path in folder.iterdir() if names.fullmatch(path.name))
        return [
            Member(path.name, path, 0, path.lstat().st_size)
            for path in files
            if path.is_file() and not path.is_symlink()
        ]
    except OSError as error:
        raise UserError(f"{folder}: can't be listed ({error.strerror}); check the folder") from None


def _stem(member: Member) -> str:
    return member.name.rsplit("/", 1)[-1].removesuffix(".JPEG")


def _check_counts(kit: Devkit, splits: Mapping[str, Images], edition: Edition) -> None:
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
