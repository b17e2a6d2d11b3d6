"""A folder of images, one folder per class: its images and the split that each belongs to.

Either DIR/train/CLASS/* and DIR/val/CLASS/*, or DIR/CLASS/* with a share held out as val, or all
of DIR as val; then a file may label the images of a flat folder.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data.sources.holdout import holdout
from pipeline.data.sources.label_files import image_name, only_labels, read_label_file
from pipeline.data.sources.naming import (
    image_key,
    is_junk,
    left_out_note,
    split_named,
)
from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.parallel_packing import Images, Listing
from pipeline.data.store.shards import is_class_folder
from pipeline.data.store.tar_listing import Member
from pipeline.runtime.errors import UserError
from pipeline.runtime.plain_text import printable


@dataclass(frozen=True)
class _File:
    path: Path
    key: str
    num_bytes: int
    mtime_ns: int


_Classes = Mapping[str, list[_File]]
# What other importers read, by a name in a folder that means it.
_OTHER_LAYOUTS = {
    "LOC_val_solution.csv": "kaggle",
    "ILSVRC": "kaggle",
    "wnids.txt": "tiny-imagenet",
    "*.parquet": "parquet",
    "data/*.parquet": "parquet",
    "*.tar": "webdataset",
}


def list_folder(
    source: Path,
    val_share: float,
    *,
    only_val: bool = False,
    labels: Path | None = None,
    follow_links: bool = False,
) -> Listing:
    """List the images of `source`, classes by sorted name as in torchvision's `ImageFolder`.

    Without folders `train` and `val` (or valid, validation, of any case), an image is held out as
    val when the SHA-256 of its "CLASS/FILE" falls in the lowest `val_share`, so that added images
    change no other's split. Every class has at least one image in each split, one of a single image
    in train alone. With `only_val` all images are val: by folders, or by the file `labels`
    (`pipeline.data.sources.label_files`). What desktops leave behind, hidden files, and files
    beside the class folders are left out and noted. Links that lead out of `source` are refused,
    unless `follow_links`. The listing's fingerprint changes with any file's name, size or time.
    Raises `UserError` for a folder that can't be a data set.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder of images")
    if not 0 < val_share < 1:
        raise UserError(f"--val-share {val_share}: must be between 0 and 1")
    if labels and not only_val:
        raise UserError("--labels: labels a folder of val images; add --only-val")
    tree = _Tree(source, follow_links)
    found: Mapping[str, _Classes]
    if labels:
        found = {"val": tree.labelled(labels)}
    elif only_val:
        found = {"val": tree.classes(tree.only_split() or source)}
    else:
        found = tree.splits(val_share)
    largest = found.get("train", found.get("val", {}))
    names = sorted(largest)
    if len(names) < 2 and not only_val:
        raise UserError(
            f"{source}: only one class ('{names[0]}'); a classifier needs two{tree.hint()}"
        )
    splits = {
        split: Images.of(
            [
                (file.key, Member(file.path.name, file.path, 0, file.num_bytes), label)
                for label, name in enumerate(names)
                for file in classes.get(name, [])
            ]
        )
        for split, classes in found.items()
    }
    options = {
        **({"only_val": True} if only_val else {"val_share": val_share}),
        **({"labels": _digest(labels)} if labels else {}),
        **({"follow_links": True} if follow_links else {}),
    }
    places = {"folder": source, **({"labels": labels} if labels else {})}
    return Listing(
        classes=tuple(ImageClass(label, name) for label, name in enumerate(names)),
        splits=splits,
        identity={"kind": "folder", "fingerprint": _fingerprint(source, found), **options},
        notes=(*tree.notes, *left_out_note(tree.left_out)),
        places={name: str(path.absolute()) for name, path in places.items()},
    )


@dataclass
class _Tree:
    """The folder `source` as it is walked; what is left out on the way is counted."""

    source: Path
    follow_links: bool
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def splits(self, val_share: float) -> Mapping[str, _Classes]:
        folders = self._split_folders()
        if "train" in folders and folders.keys() & {"val", "test"}:
            second = "val" if "val" in folders else "test"
            found = {split: self.classes(folders[split]) for split in ("train", second)}
            if "test" in folders and second == "val":
                self.notes.append(f"{folders['test'].name}/ is not packed; val is what is tested")
            if second == "test":
                self.notes.append("no val, but test; train with --set data.test_split=test")
            self._compare(folders[second], found["train"], found[second])
            return found
        if "train" in folders or "val" in folders:
            present, missing = ("train", "val") if "train" in folders else ("val", "train")
            name = folders[present].name
            raise UserError(
                f"{self.source}: has classes in {name}/ but none in {missing}/; add {missing}/, "
                f"or give {folders[present]} alone{self.hint()}"
            )
        return self._hold_out(self.classes(self.source), val_share)

    def only_split(self) -> Path | None:
        """Return the folder of val, test or train that the source has, the first of these."""
        folders = self._split_folders()
        chosen = next(
            (folders[split] for split in ("val", "test", "train") if split in folders), None
        )
        if others := [path.name for path in folders.values() if path != chosen]:
            self.notes.append(f"{', '.join(others)} not packed; of them {chosen} is val")
        return chosen

    def classes(self, folder: Path) -> dict[str, list[_File]]:
        """Return {class: its files by name}; symbolic links must not lead out of the source."""
        entries = self._entries(folder)
        for entry in entries:
            if entry.is_symlink() and not Path(entry.path).exists():
                self._check_link(entry)
        folders = [entry for entry in entries if entry.is_dir()]
        self.left_out.update(entry.name for entry in entries if not entry.is_dir())
        if not folders:
            raise UserError(
                f"{folder}: no class folders; put the images in {folder}/CLASS/, or label them by "
                f"a file (--only-val --labels FILE){self.hint()}"
            )
        classes = {}
        for entry in folders:
            self._check_link(entry)
            if not is_class_folder(entry.name):
                raise UserError(
                    f"{printable(entry.path)}: not a name that shards can hold; rename it"
                )
            classes[entry.name] = self._files(Path(entry.path))
        return classes

    def labelled(self, labels: Path) -> dict[str, list[_File]]:
        """Return {class: files} of all images below the source, as the file `labels` has it."""
        label_of = only_labels(read_label_file(labels), str(labels))
        found: dict[str, list[_File]] = {}
        seen: dict[str, Path] = {}
        for path in self._images_below(self.source):
            name = image_name(path.name)
            if path.absolute() == labels.absolute():
                continue
            if name not in label_of:
                raise UserError(f"{printable(str(path))}: {labels} has no label for it; add one")
            if name in seen:
                raise UserError(f"{path}: {seen[name]} has the same name; rename one of them")
            seen[name] = path
            status = path.stat()
            found.setdefault(label_of[name], []).append(
                _File(path, image_key(name), status.st_size, status.st_mtime_ns)
            )
        if missing := label_of.keys() - seen.keys():
            raise UserError(
                f"{labels}: labels '{min(missing)}', which is not in {self.source} (nor are "
                f"{len(missing) - 1} more); do they belong together?"
            )
        return found

    def _images_below(self, folder: Path) -> list[Path]:
        found = []
        for entry in self._entries(folder):
            self._check_link(entry)
            path = Path(entry.path)
            found += self._images_below(path) if entry.is_dir() else [path]
        return found

    def _files(self, folder: Path) -> list[_File]:
        """Return the files by name; keys are CLASS/STEM, dots replaced, numbered where equal."""
        found: dict[str, _File] = {}
        for entry in self._entries(folder):
            self._check_link(entry)
            if entry.is_dir():
                raise UserError(
                    f"{printable(entry.path)}: not a file; a class holds only images; give "
                    f"{printable(str(folder))} if its folders are the classes{self.hint()}"
                )
            if not entry.is_file():
                raise UserError(f"{printable(entry.path)}: not a file; a class holds only images")
            path, status = Path(entry.path), entry.stat()
            key = image_key(path.stem, found, f"{folder.name}/")
            found[key] = _File(path, key, status.st_size, status.st_mtime_ns)
        if not found:
            raise UserError(f"{folder}: no images; add some or remove the folder")
        return list(found.values())

    def _split_folders(self) -> dict[str, Path]:
        """Return the folders of splits that hold classes; two of one split are refused."""
        found: dict[str, Path] = {}
        for entry in self._entries(self.source):
            split, path = split_named(entry.name), Path(entry.path)
            if split and entry.is_dir() and any(each.is_dir() for each in self._entries(path)):
                self._check_link(entry)
                if split in found:
                    raise UserError(f"{path}: {found[split].name}/ is a {split} too; remove one")
                found[split] = path
        self.left_out.clear()  # counted again by what reads them
        if found:
            self.left_out.update(
                entry.name
                for entry in self._entries(self.source)
                if Path(entry.path) not in found.values()
            )
        return found

    def _compare(self, folder: Path, train: _Classes, second: _Classes) -> None:
        if extra := second.keys() - train.keys():
            raise UserError(
                f"{self.source / 'train'}: has no class '{min(extra)}', which {folder} has; no "
                "network could learn it"
            )
        if missing := train.keys() - second.keys():
            self.notes.append(
                f"{folder.name}/ lacks {len(missing):,} of train's {len(train):,} classes, as "
                f"'{min(missing)}'"
            )

    def _hold_out(self, classes: _Classes, val_share: float) -> Mapping[str, _Classes]:
        splits: dict[str, dict[str, list[_File]]] = {"train": {}, "val": {}}
        single = []
        for name, files in classes.items():
            named = {f"{name}/{file.path.name}": file for file in files}
            val = holdout(list(named), val_share) if len(files) > 1 else set()
            single += [name] if len(files) == 1 else []
            splits["train"][name] = [file for key, file in named.items() if key not in val]
            splits["val"][name] = [file for key, file in named.items() if key in val]
        if len(single) == len(classes):
            raise UserError(
                f"{self.source}: a single image in every class; val needs some too{self.hint()}"
            )
        if single:
            self.notes.append(
                f"classes of a single image are in train alone: {single[0]}"
                + f" and {len(single) - 1:,} more" * (len(single) > 1)
            )
        return splits

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(
                f"{folder}: can't be listed ({error.strerror}); check the folder"
            ) from None
        kept = [entry for entry in found if not is_junk(entry.name)]
        self.left_out.update(_kind(entry.name) for entry in found if is_junk(entry.name))
        return kept

    def _check_link(self, entry: os.DirEntry[str]) -> None:
        if not entry.is_symlink():
            return
        path, name = Path(entry.path), printable(entry.path)
        if not path.exists():
            raise UserError(f"{name}: a symbolic link to nothing; remove it")
        target = path.resolve()
        if self.follow_links:
            if path.absolute().is_relative_to(target):
                raise UserError(f"{name}: a symbolic link to a folder that it is in; remove it")
        elif not target.is_relative_to(self.source.resolve()):
            raise UserError(
                f"{name}: a symbolic link out of the folder; copy the images in, or add "
                "--follow-links if they may be read there"
            )

    def hint(self) -> str:
        """Say which other importer may be meant."""
        source = self.source.absolute()
        for folder in (source, source.parent, *source.parents[2:3]):
            for pattern, command in _OTHER_LAYOUTS.items():
                if "*" in pattern and folder != source:
                    continue
                if next(folder.glob(pattern), None) is not None:
                    return f"; it looks as if made for `ilsvrc prepare {command} {folder}`"
        return ""


def _kind(name: str) -> str:
    return "._*" if name.startswith("._") else name


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _fingerprint(source: Path, found: Mapping[str, _Classes]) -> str:
    digest = hashlib.sha256()
    for split, classes in found.items():
        for files in classes.values():
            for file in files:
                name = os.fsencode(file.path.relative_to(source))
                facts = f"\0{split}\0{file.num_bytes}\0{file.mtime_ns}\n"
                digest.update(name + facts.encode())
    return digest.hexdigest()
