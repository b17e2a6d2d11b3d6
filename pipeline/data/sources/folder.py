"""A folder of images, one folder per class: its images and the split that each belongs to.

Either DIR/train/CLASS/* and DIR/val/CLASS/*, or DIR/CLASS/* with a share held out as val.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.sources.holdout import holdout
from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.parallel_packing import Images, Listing
from pipeline.data.store.shards import is_class_folder, numbered
from pipeline.data.store.tar_listing import Member
from pipeline.runtime.errors import UserError

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class _File:
    path: Path
    key: str
    num_bytes: int
    mtime_ns: int


_Classes = Mapping[str, list[_File]]


def list_folder(source: Path, val_share: float) -> Listing:
    """List the images of `source`, classes by sorted name as in torchvision's `ImageFolder`.

    Without folders `train` and `val`, an image is held out as val when the SHA-256 of its
    "CLASS/FILE" falls in the lowest `val_share`, so that added images change no other's split.
    Every class has at least one image in each split. Files whose name begins with a dot are left
    out, as are files beside the class folders. The listing's fingerprint changes with any file's
    name, size or time. Raises `UserError` for a folder that can't be a data set.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder of images")
    if not 0 < val_share < 1:
        raise UserError(f"--val-share {val_share}: must be between 0 and 1")
    has_split = {name: _has_folders(source / name) for name in ("train", "val")}
    if all(has_split.values()):
        found = {name: _list_classes(source / name, source.resolve()) for name in has_split}
        _check_same_classes(source, found["train"], found["val"])
    elif any(has_split.values()):
        present, missing = sorted(has_split, key=has_split.__getitem__, reverse=True)
        raise UserError(
            f"{source}: has classes in {present}/ but none in {missing}/; add {missing}/, "
            f"or give {source / present} alone"
        )
    else:
        found = _hold_out(_list_classes(source, source.resolve()), val_share)
    names = sorted(found["train"])
    if len(names) < 2:
        raise UserError(f"{source}: only one class ('{names[0]}'); a classifier needs two")
    splits = {
        split: Images.of(
            [
                (file.key, Member(file.path.name, file.path, 0, file.num_bytes), label)
                for label, name in enumerate(names)
                for file in classes[name]
            ]
        )
        for split, classes in found.items()
    }
    classes = tuple(ImageClass(label, name) for label, name in enumerate(names))
    return Listing(classes, splits, {"fingerprint": _fingerprint(source, found)})


def _list_classes(folder: Path, root: Path) -> dict[str, list[_File]]:
    """Return {class: its files by name}; symbolic links must not lead out of `root`."""
    entries = [entry for entry in _entries(folder) if entry.is_dir()]
    if not entries:
        raise UserError(f"{folder}: no class folders; put the images in {folder}/CLASS/")
    classes = {}
    for entry in entries:
        _check_link(entry, root)
        if not is_class_folder(entry.name):
            raise UserError(f"{_printable(entry.path)}: not a name that shards can hold; rename it")
        classes[entry.name] = _list_files(Path(entry.path), root)
    return classes


def _list_files(folder: Path, root: Path) -> list[_File]:
    """Return the files by name; keys are CLASS/STEM, dots replaced, numbered where equal."""
    found: dict[str, _File] = {}
    for entry in _entries(folder):
        _check_link(entry, root)
        if not entry.is_file():
            raise UserError(f"{_printable(entry.path)}: not a file; a class holds only images")
        path, status = Path(entry.path), entry.stat()
        stem = f"{folder.name}/{_printable(path.stem).replace('.', '_')}"
        key = next(key for key in numbered(stem) if key not in found)
        found[key] = _File(path, key, status.st_size, status.st_mtime_ns)
    if not found:
        raise UserError(f"{folder}: no images; add some or remove the folder")
    return list(found.values())


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder}: can't be listed ({error.strerror}); check the folder") from None
    return sorted(visible, key=lambda entry: entry.name)


def _check_link(entry: os.DirEntry[str], root: Path) -> None:
    if not entry.is_symlink():
        return
    path = Path(entry.path)
    if not path.exists():
        raise UserError(f"{_printable(entry.path)}: a symbolic link to nothing; remove it")
    if not path.resolve().is_relative_to(root):
        raise UserError(
            f"{_printable(entry.path)}: a symbolic link out of the folder; copy the images in"
        )


def _has_folders(folder: Path) -> bool:
    return folder.is_dir() and any(entry.is_dir() for entry in _entries(folder))


def _check_same_classes(source: Path, train: _Classes, val: _Classes) -> None:
    for split, missing in (
        ("val", train.keys() - val.keys()),
        ("train", val.keys() - train.keys()),
    ):
        if missing:
            raise UserError(
                f"{source / split}: has no class '{min(missing)}'; train and val need the same"
            )


def _hold_out(classes: _Classes, val_share: float) -> dict[str, dict[str, list[_File]]]:
    splits: dict[str, dict[str, list[_File]]] = {"train": {}, "val": {}}
    for name, files in classes.items():
        if len(files) < 2:
            raise UserError(f"{files[0].path.parent}: one image; train and val need one each")
        named = {f"{name}/{file.path.name}": file for file in files}
        val = holdout(list(named), val_share)
        splits["train"][name] = [file for key, file in named.items() if key not in val]
        splits["val"][name] = [file for key, file in named.items() if key in val]
    return splits


def _fingerprint(source: Path, found: Mapping[str, _Classes]) -> str:
    digest = hashlib.sha256()
    for split, classes in found.items():
        for files in classes.values():
            for file in files:
                name = os.fsencode(file.path.relative_to(source))
                facts = f"\0{split}\0{file.num_bytes}\0{file.mtime_ns}\n"
                digest.update(name + facts.encode())
    return digest.hexdigest()


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub("_", text)
