"""ILSVRC-2012 from its official archives, from folders they were extracted to, or from Kaggle.

The training archive is a tar of one tar per synset; validation and test archives are flat. Kaggle's
zip archive holds folders of both. Images are read from inside the archives, so that 1.28 million
files are never unpacked.
"""

import hashlib
import os
import re
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from pipeline.data.sources.devkit import Devkit, read_devkit
from pipeline.data.sources.naming import official_stem
from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.packing import ProgressCallback
from pipeline.data.store.parallel_packing import Images, Listing, Opener, open_plain
from pipeline.data.store.tar_listing import Member, list_members
from pipeline.data.store.zip_listing import list_zip, open_zip
from pipeline.runtime.errors import InterruptedByUserError, UserError

_SYNSET = re.compile(r"n\d{8}\.tar")
# Some append the class, as Hugging Face does.
_TRAIN = re.compile(r"n\d{8}_\d+(?:_n\d{8})?\.JPEG")
_VAL = re.compile(r"(?:val/)?ILSVRC2012_val_\d{8}(?:_n\d{8})?\.JPEG|val")
_TEST = re.compile(r"(?:test/)?ILSVRC2012_test_\d{8}\.JPEG|test")
_ZIPPED = re.compile(r"(?:.*/)?(train/n\d{8}|val|test)/[^/]+\.JPEG")
_KAGGLE = Path("ILSVRC", "Data", "CLS-LOC")
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
    """The archives, or folders with their content; training and test images may be left out."""

    train: Path | None
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


def kaggle_sources(place: Path, *, with_train: bool = True, with_test: bool = False) -> Sources:
    """Return where Kaggle's folder, or its zip archive, has what the official archives hold."""
    if not place.exists():
        raise UserError(f"{place}: no such folder or archive; give what Kaggle gave")
    if place.is_file():
        train, test = place if with_train else None, place if with_test else None
        return Sources(train, place, place, test)
    root = place
    if place.name == _KAGGLE.name and not (place / _KAGGLE).is_dir():
        root = place.absolute().parents[2]
    images = root / _KAGGLE
    train = images / "train" if with_train else None
    return Sources(train, images / "val", root, images / "test" if with_test else None)


def list_ilsvrc2012(
    sources: Sources,
    subset: Subset,
    edition: Edition = ILSVRC2012,
    follow_links: bool = False,
) -> Listing:
    """List all images without reading them, and compare their counts with the `edition`.

    Raises `UserError` that names the first wrong member or count of an archive, and for symbolic
    links unless `follow_links`. Of a `subset` only the chosen images must be there. Of other
    classes than the edition's, which only Kaggle's tables can name, the counts are not compared.
    """
    kit = read_devkit(sources.devkit)
    classes = kit.classes[: subset.classes]
    if subset.classes and len(classes) < subset.classes:
        raise UserError(f"--classes {subset.classes}: the devkit has {len(kit.classes)}")
    if sources.test and not subset.is_whole:
        raise UserError("--test: a subset has no test images, as their classes are secret")
    splits = {}
    if sources.train:
        splits["train"] = list_train(sources.train, classes, subset, follow_links)
    splits["val"] = _val(sources.val, kit, len(classes), subset, follow_links)
    if sources.test:
        found = _flat(sources.test, _TEST, follow_links)
        rows = ((_stem(member), member, -1) for member in found)
        splits["test"] = Images.of(rows, _opener(sources.test))
    notes = []
    if kit.val_names and len(kit.classes) != edition.num_classes:
        notes.append(
            f"{len(kit.classes):,} classes, where ILSVRC-2012 has {edition.num_classes:,}: what is "
            "there is packed, without comparing counts"
        )
    elif subset.is_whole:
        _check_counts(kit, splits, edition)
    sizes = {split: int(images.sizes.sum()) for split, images in splits.items()}
    return Listing(
        classes,
        splits,
        {"sizes": sizes, **({"follow_links": True} if follow_links else {})},
        tuple(notes),
        {name: str(path) for name, path in sources.items().items()},
    )


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


def list_train(
    path: Path,
    classes: tuple[ImageClass, ...],
    subset: Subset = WHOLE,
    follow_links: bool = False,
) -> Images:
    """List the training images of `classes` in the archive, or in the folder it was extracted to.

    Raises `UserError` as `list_ilsvrc2012` does.
    """
    return Images.of(_train_images(path, classes, subset, follow_links), _opener(path))


def _train_images(
    path: Path, classes: tuple[ImageClass, ...], subset: Subset, follow_links: bool
) -> Iterator[tuple[str, Member, int]]:
    listings = _train_listings(path, follow_links)
    for each in classes:
        if each.name not in listings:
            is_tar = path.is_file() and not _is_zip(path)
            raise UserError(f"{path}: has no {each.name}{'.tar' * is_tar}; download it again")
        members = listings[each.name]()[: subset.images_per_class]
        for member in members:
            if not _stem(member).startswith(f"{each.name}_"):
                raise UserError(f"{path}: {member.name} is in the archive of {each.name}")
        if not members:
            raise UserError(f"{path}: class {each.name} has no images; download it again")
        yield from ((_stem(member), member, each.index) for member in members)
    if subset.is_whole and (extra := listings.keys() - {each.name for each in classes}):
        raise UserError(f"{path}: {min(extra)} is of no class of the devkit")


def _train_listings(path: Path, follow_links: bool) -> dict[str, Callable[[], list[Member]]]:
    """Return by WNID what lists a class's images by name: they are listed when they are needed.

    A folder holds one for each class, itself or in its folder `train`, or all images.
    """
    if _is_zip(path):
        folders = {name.rpartition("/")[2]: members for name, members in _zipped(path).items()}
        return {wnid: partial(list, members) for wnid, members in folders.items() if wnid[0] == "n"}
    if not path.is_dir():
        inner = {member.name.removesuffix(".tar"): member for member in list_members(path, _SYNSET)}
        return {wnid: partial(_inner_images, path, member) for wnid, member in inner.items()}
    for folder in (path, path / "train"):
        found = sorted(folder.glob("n[0-9]*[0-9]")) if folder.is_dir() else []
        if of_class := [each for each in found if each.is_dir()]:
            return {each.name: partial(_below, each, _TRAIN, follow_links) for each in of_class}
    flat: dict[str, list[Member]] = {}
    for member in _below(path, _TRAIN, follow_links):
        flat.setdefault(_stem(member).partition("_")[0], []).append(member)
    return {wnid: partial(list, members) for wnid, members in flat.items()}


def _inner_images(archive: Path, inside: Member) -> list[Member]:
    return sorted(list_members(archive, _TRAIN, inside), key=_stem)


def _val(path: Path, kit: Devkit, num_classes: int, subset: Subset, follow_links: bool) -> Images:
    found = _flat(path, _VAL, follow_links)
    if kit.val_names and (stems := set(map(_stem, found))) != set(kit.val_names):
        absent, extra = set(kit.val_names) - stems, stems - set(kit.val_names)
        problem = f"lacks {min(absent)}" if absent else f"has {min(extra)} unlabelled"
        raise UserError(f"{path}: {problem}, by LOC_val_solution.csv; do they belong together?")
    if len(found) != len(kit.val_labels):
        raise UserError(
            f"{path}: {len(found):,} images, the devkit labels {len(kit.val_labels):,}; do they "
            "belong together?"
        )
    num_chosen: Counter[int] = Counter()
    chosen = []
    for member, label in zip(found, kit.val_labels, strict=True):
        told = _told_wnid(member)
        if told and told != kit.classes[label].name:
            raise UserError(
                f"{member.file}: is of {told}, but the devkit labels it {kit.classes[label].name}; "
                "do they belong together?"
            )
        limit = subset.images_per_class
        if label < num_classes and (limit is None or num_chosen[label] < limit):
            num_chosen[label] += 1
            chosen.append((_stem(member), member, label))
    return Images.of(chosen, _opener(path))


def _told_wnid(member: Member) -> str | None:
    """Return the WNID that a val image's name, or the folder it was sorted into, tells."""
    name = member.name.rsplit("/", 1)[-1].removesuffix(".JPEG")
    folder = member.file.parent.name
    return official_stem(name)[1] or (folder if re.fullmatch(r"n\d{8}", folder) else None)


def _flat(path: Path, names: re.Pattern[str], follow_links: bool) -> list[Member]:
    """Return the images, whose numbers must be 1, 2, 3 …"""
    if path.is_dir():
        found = _below(path, names, follow_links)
    elif _is_zip(path):
        found = _zipped(path).get("val" if names is _VAL else "test", [])
    else:
        found = list(list_members(path, names))
    found.sort(key=_stem)
    for number, member in enumerate(found, start=1):
        if int(_stem(member)[-8:]) != number:
            raise UserError(f"{path}: image {number} is missing or there twice; get it again")
    return found


def _below(folder: Path, names: re.Pattern[str], follow_links: bool) -> list[Member]:
    """Return the files in `folder`, and in its folders, whose names match `names`, by name."""
    found, waiting = [], [folder]
    try:
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_symlink() and (names.fullmatch(entry.name) or entry.is_dir()):
                        _check_link(Path(entry.path), follow_links)
                    if entry.is_dir():
                        waiting.append(Path(entry.path))
                    elif entry.is_file() and names.fullmatch(entry.name):
                        size = entry.stat().st_size
                        found.append(Member(entry.name, Path(entry.path), 0, size))
    except OSError as error:
        raise UserError(f"{folder}: can't be listed ({error.strerror}); check the folder") from None
    return sorted(found, key=_stem)


def _check_link(path: Path, follow_links: bool) -> None:
    if not path.exists():
        raise UserError(f"{path}: a symbolic link to nothing; get the image again")
    if not follow_links:
        raise UserError(f"{path}: a symbolic link; add --follow-links to read what it leads to")
    if path.absolute().is_relative_to(path.resolve()):
        raise UserError(f"{path}: a symbolic link to a folder that it is in; remove it")


def _is_zip(path: Path) -> bool:
    return path.is_file() and zipfile.is_zipfile(path)


def _opener(path: Path) -> Opener:
    return open_zip if _is_zip(path) else open_plain


def _zipped(path: Path) -> dict[str, list[Member]]:
    """Return the images in Kaggle's archive by "train/WNID", "val" and "test", each by name."""
    return _zipped_once(path, path.stat().st_mtime_ns)


@lru_cache(1)  # of 1.4 million names, for each split
def _zipped_once(path: Path, mtime_ns: int) -> dict[str, list[Member]]:
    found: dict[str, list[Member]] = {}
    for member in list_zip(path, _ZIPPED):
        if match := _ZIPPED.fullmatch(member.name):
            found.setdefault(match[1], []).append(member)
    return {folder: sorted(members, key=_stem) for folder, members in found.items()}


def _stem(member: Member) -> str:
    """Return an image's official name, without the class that some append."""
    return official_stem(member.name.rsplit("/", 1)[-1].removesuffix(".JPEG"))[0]


def _check_counts(kit: Devkit, splits: Mapping[str, Images], edition: Edition) -> None:
    if len(kit.classes) != edition.num_classes:
        raise UserError(f"devkit: {len(kit.classes)} classes, expected {edition.num_classes}")
    for split, images in splits.items():
        expected = edition.num_images[split]
        if len(images) != expected:
            raise UserError(f"{split}: {len(images):,} images, expected {expected:,}")
    if "train" in splits:
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
