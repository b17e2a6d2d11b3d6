"""ILSVRC-2012's development kit: the synsets, and the labels of the validation images.

Labels there are ILSVRC2012_IDs, from 1. Here a class is the rank of its WNID in sorted order, from
0, as in Caffe's lists and torchvision's folders.
"""

import io
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scipy.io import loadmat

from pipeline.data.store.manifest import ImageClass
from pipeline.runtime.errors import UserError

_META = "data/meta.mat"
_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_LARGEST = 64 * 2**20


@dataclass(frozen=True)
class Devkit:
    """The classes by sorted WNID, and the label (from 0) of each validation image in order."""

    classes: tuple[ImageClass, ...]
    val_labels: tuple[int, ...]


def read_devkit(path: Path) -> Devkit:
    """Read the kit from its archive (`.tar.gz`), which isn't unpacked, or from its folder.

    Raises `UserError` for anything else than a devkit.
    """
    files = _from_folder(path) if path.is_dir() else _from_archive(path)
    classes = _classes(path, files[_META])
    by_id = {each.ilsvrc2012_id: each.index for each in classes}
    try:
        labels = tuple(by_id[int(line)] for line in files[_TRUTH].split())
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: {_TRUTH} names {error}, which is no class's ID") from None
    return Devkit(classes, labels)


def _classes(path: Path, meta: bytes) -> tuple[ImageClass, ...]:
    try:
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        rows = [
            (str(row["WNID"]), str(row["words"]), int(row["ILSVRC2012_ID"]))
            for row in synsets
            if int(row["num_children"]) == 0
        ]
    except Exception as error:  # the parser raises all kinds for broken bytes
        raise UserError(f"{path}: {_META} can't be read ({error}); download it again") from None
    wnids, ids = {row[0] for row in rows}, {row[2] for row in rows}
    if len(wnids) != len(rows) or ids != set(range(1, len(rows) + 1)):
        raise UserError(f"{path}: {_META} has repeated or missing synsets; download it again")
    return tuple(
        ImageClass(index, wnid, words, number)
        for index, (wnid, words, number) in enumerate(sorted(rows))
    )


def _from_folder(folder: Path) -> Mapping[str, bytes]:
    try:
        return {name: (folder / name).read_bytes() for name in (_META, _TRUTH)}
    except OSError as error:
        raise UserError(
            f"{error.filename}: can't be read ({error.strerror}); is {folder} the devkit?"
        ) from None


def _from_archive(file: Path) -> Mapping[str, bytes]:
    found = {}
    try:
        with tarfile.open(file, "r:gz") as archive:
            for entry in archive:
                name = "/".join(entry.name.split("/")[-2:])
                if name not in (_META, _TRUTH) or not entry.isreg() or entry.size > _LARGEST:
                    continue
                content = archive.extractfile(entry)
                found[name] = content.read() if content else b""
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(f"{file}: can't be read ({error}); download it again") from None
    for name in (_META, _TRUTH):
        if name not in found:
            raise UserError(f"{file}: has no {name}; is it ILSVRC2012_devkit_t12.tar.gz?")
    return found
