"""`dataset.json`: what a packed data set says of itself, and whether its files are still so."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.config.cluster import Folder
from pipeline.config.yaml import Section, validate
from pipeline.data.store.remote import reached
from pipeline.runtime.errors import UserError

FORMAT_VERSION = 2
FILE_NAME = "dataset.json"

_BLOCK = 2**22

# What the members of the shards are. A signal is an `.npy` array, float32 of shape (width,); the
# index calls its height 1.
Contents = Literal["images", "signals"]


@dataclass(frozen=True)
class ImageClass:
    """A class: the label's number and its name, which is the WNID for ILSVRC's synsets.

    `words` are a synset's names, which are not unique, and `ilsvrc2012_id` (from 1) is what files
    of predictions are submitted with.
    """

    index: int
    name: str
    words: str = ""
    ilsvrc2012_id: int | None = None


class ManifestFile(Section):
    name: str
    size: int
    sha256: str


class SplitManifest(Section):
    num_images: int
    num_quarantined: int
    index: ManifestFile
    shards: tuple[ManifestFile, ...]

    @property
    def files(self) -> tuple[ManifestFile, ...]:
        return (self.index, *self.shards)


class Manifest(Section):
    """`dataset.json`. The digest covers classes, keys, labels and images, not how they are cut.

    `source` says what it was made from and how, `places` where that was.
    """

    format_version: int
    name: str
    contents: Contents = "images"
    digest: str
    classes: tuple[ImageClass, ...]
    splits: dict[str, SplitManifest]
    source: dict[str, Any]
    places: dict[str, str]


def read_manifest(folder: Folder) -> Manifest:
    """Read `folder`'s description; raises `UserError` when there is none that this code reads."""
    path = folder / FILE_NAME
    with reached(folder):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such data set; run `ilsvrc prepare` to make it")
        if not path.is_file():
            raise UserError(f"{folder}: not a packed data set (no {FILE_NAME}); choose another")
    try:
        with reached(path):
            text = path.read_bytes()
        content = json.loads(text)
        version = content["format_version"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: can't be read ({error}); {again(folder)}") from None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path}: format version {version}, but this program reads {FORMAT_VERSION}; "
            f"{again(folder)}"
        )
    return validate(Manifest, content, str(path))


def check_sizes(folder: Folder, files: Iterable[ManifestFile]) -> None:
    """Raise `UserError` that names the first of `files` that is missing or of another size."""
    if isinstance(folder, Path):
        there = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
    else:  # one request lists them all
        with reached(folder):
            found = folder.fs.ls(folder.path, detail=True)
        there = {entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in found}
    for file in files:
        if file.name not in there:
            raise UserError(f"{folder / file.name}: missing; {again(folder)}")
        if there[file.name] != file.size:
            raise UserError(
                f"{folder / file.name}: {there[file.name]:,} bytes where {file.size:,} were "
                f"written; {again(folder)}"
            )


def sha256(path: Folder) -> str:
    """Return the digest of the file at `path`, as hexadecimal digits."""
    digest = hashlib.sha256()
    with reached(path), path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def again(folder: Folder) -> str:
    return f"remove {folder} and run `ilsvrc prepare` again"
