"""ILSVRC-2012's development kit: the synsets, and the labels of the validation images.

Labels of the kit are ILSVRC2012_IDs, from 1. Here a class is the rank of its WNID in sorted order,
from 0, as in Caffe's lists and torchvision's folders. In the kit's place Kaggle gives
`LOC_synset_mapping.txt` and `LOC_val_solution.csv`, which know no ILSVRC2012_IDs.
"""

import io
import re
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.sources.label_files import only_labels, parse_labels, read_text
from pipeline.data.store.manifest import ImageClass
from pipeline.runtime.errors import UserError

_META = "data/meta.mat"
_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_MAPPING = "LOC_synset_mapping.txt"
_SOLUTION = "LOC_val_solution.csv"
_LARGEST = 64 * 2**20
_SYNSET = re.compile(r"(n\d{8})(?:\s+(.*))?")


@dataclass(frozen=True)
class Devkit:
    """The classes by sorted WNID, and the label (from 0) of each validation image in order.

    `val_names` are the images' names without extension, where the kit tells them.
    """

    classes: tuple[ImageClass, ...]
    val_labels: tuple[int, ...]
    val_names: tuple[str, ...] = ()


def read_devkit(path: Path) -> Devkit:
    """Read the kit from its archive (`.tar.gz`), which isn't unpacked, or from its folder.

    Kaggle's two files are read from the folder or zip archive that Kaggle gives. Raises `UserError`
    for anything else than a devkit.
    """
    if (path / _MAPPING).is_file() or (path / _SOLUTION).is_file() or zipfile.is_zipfile(path):
        return _kaggle(path)
    files = _from_folder(path) if path.is_dir() else _from_archive(path)
    classes = _classes(path, files[_META])
    by_id = {each.ilsvrc2012_id: each.index for each in classes}
    try:
        labels = tuple(by_id[int(line)] for line in files[_TRUTH].split())
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: {_TRUTH} names {error}, which is no class's ID") from None
    return Devkit(classes, labels)


def _classes(path: Path, meta: bytes) -> tuple[ImageClass, ...]:
    from scipy.io import loadmat

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


def _kaggle(path: Path) -> Devkit:
    mapping, solution = (_kaggle_text(path, name) for name in (_MAPPING, _SOLUTION))
    rows = []
    for number, line in enumerate(mapping.splitlines(), 1):
        if not (match := _SYNSET.fullmatch(line.strip())):
            raise UserError(f"{path}: {_MAPPING}, line {number}: '{line[:40]}' begins with no WNID")
        rows.append((match[1], (match[2] or "").strip()))
    wnids = Counter(wnid for wnid, _ in rows)
    if repeated := [wnid for wnid, count in wnids.items() if count > 1]:
        raise UserError(f"{path}: {_MAPPING} has {repeated[0]} twice; download it again")
    classes = tuple(ImageClass(k, wnid, words) for k, (wnid, words) in enumerate(sorted(rows)))
    index = {each.name: each.index for each in classes}
    labels = only_labels(parse_labels(solution, f"{path}: {_SOLUTION}"), f"{path}: {_SOLUTION}")
    names = sorted(labels)
    try:
        return Devkit(classes, tuple(index[labels[name]] for name in names), tuple(names))
    except KeyError as error:
        raise UserError(f"{path}: {_SOLUTION} names {error}, which {_MAPPING} lacks") from None


def _kaggle_text(path: Path, name: str) -> str:
    if path.is_dir():
        if not (path / name).is_file():
            raise UserError(f"{path / name}: is missing; Kaggle gives it beside ILSVRC/")
        return read_text(path / name)
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(name).file_size > _LARGEST:
                raise UserError(f"{path}: {name} is too large to be Kaggle's; choose another")
            return archive.read(name).decode("utf-8-sig")
    except KeyError:
        raise UserError(f"{path}: has no {name}; is it Kaggle's archive of ILSVRC?") from None
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, ValueError) as error:
        raise UserError(f"{path}: can't be read ({error}); download it again") from None


def _from_folder(folder: Path) -> Mapping[str, bytes]:
    try:
        return {name: (folder / name).read_bytes() for name in (_META, _TRUTH)}
    except OSError as error:
        raise UserError(
            f"{error.filename}: can't be read ({error.strerror}); is {folder} the devkit, or "
            f"Kaggle's folder with {_MAPPING}?"
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
