"""`dataset.json`, the manifest of a packed data set: reading it, comparing the files with it."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.config.cluster import Folder
from pipeline.config.yaml import Section, validate
from pipeline.data.store.remote import remote_errors
from pipeline.runtime.errors import UserError

FORMAT_VERSION = 2
FILE_NAME = "dataset.json"

# What the members of the shards are. A signal is an `.npy` array, float32 of shape (width,); the
# index calls its height 1.
Contents = Literal["images", "signals"]


@dataclass(frozen=True)
class ImageClass:
    """A class: the label's number and its name, which is the WNID for ILSVRC's synsets.

    `words` are a synset's names, which are not unique. Files of predictions are submitted with
    `ilsvrc2012_id` (from 1).
    """

    index: int
    name: str
    words: str = ""
    ilsvrc2012_id: int | None = None


class ManifestFile(Section):
    """A file of the data set; `size` in bytes, `sha256` as hexadecimal digits."""

    name: str
    size: int
    sha256: str


class SplitManifest(Section):
    """A split; quarantined images are in its index and not in its shards."""

    num_images: int
    num_quarantined: int
    index: ManifestFile
    shards: tuple[ManifestFile, ...]

    @property
    def files(self) -> tuple[ManifestFile, ...]:
        return (self.index, *self.shards)


class Manifest(Section):
    """The content of `dataset.json`.

    The digest covers classes, keys, labels and images, not their division into shards. `source`
    records what the data set was made from and with which options, `places` the paths of that.
    """

    format_version: int
    name: str
    contents: Contents = "images"
    digest: str
    classes: tuple[ImageClass, ...]
    splits: dict[str, SplitManifest]
    source: dict[str, Any]
    places: dict[str, str]


def _command(name: str) -> str:
    own = name in ("digits", "mnist1d", "mnist", "ilsvrc2012")
    return f"ilsvrc prepare {name}" if own else "ilsvrc prepare"


def read_manifest(folder: Folder) -> Manifest:
    """Read the manifest in `folder`; raises `UserError` when there is none that this code reads."""
    path = folder / FILE_NAME
    with remote_errors(folder):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such data set; run `{_command(folder.name)}` to make it")
        if not path.is_file():
            raise UserError(f"{folder}: not a packed data set (no {FILE_NAME}); choose another")
    try:
        with remote_errors(path):
            text = path.read_bytes()
        content = json.loads(text)
        version = content["format_version"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise damaged(path, f"can't be read ({error})") from None
    if version != FORMAT_VERSION:
        raise damaged(path, f"format version {version}, but this program reads {FORMAT_VERSION}")
    return validate(Manifest, content, str(path))


def check_sizes(folder: Folder, files: Iterable[ManifestFile]) -> None:
    """Raise `UserError` that names the first of `files` that is missing or of another size."""
    if isinstance(folder, Path):
        with os.scandir(folder) as entries:
            sizes = {entry.name: entry.stat().st_size for entry in entries}
    else:  # one request lists them all
        with remote_errors(folder):
            found = folder.fs.ls(folder.path, detail=True)
        sizes = {entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in found}
    for file in files:
        if file.name not in sizes:
            raise damaged(folder / file.name, "missing")
        if (size := sizes[file.name]) != file.size:
            problem = f"{size:,} bytes where {file.size:,} were written"
            raise damaged(folder / file.name, problem)


def sha256(path: Folder) -> str:
    """Return the SHA-256 of the file at `path`, as hexadecimal digits."""
    with remote_errors(path), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # has readinto too
    return digest.hexdigest()


def damaged(path: Folder, problem: str) -> UserError:
    """Return the error for a damaged file of a data set, which says how to replace the data set."""
    return UserError(f"{path}: {problem}; remove {path.parent} and run `ilsvrc prepare` again")
