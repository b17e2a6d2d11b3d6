"""Writing a packed data set: shards, an index per split, and the manifest."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.store.atomic_folder import new_folder
from pipeline.data.store.index import IndexRow, IndexWriter
from pipeline.data.store.manifest import (
    FILE_NAME,
    FORMAT_VERSION,
    Contents,
    ImageClass,
    Manifest,
    ManifestFile,
    SplitManifest,
    sha256,
)
from pipeline.data.store.shards import ShardWriter, is_key
from pipeline.data.store.store import Store
from pipeline.runtime.errors import UserError
from pipeline.runtime.storage import sync

# Called with what is done and the total, in images or in bytes.
ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True)
class Sample:
    """An encoded image as a source yields it; height and width in pixels.

    Or a signal (`pipeline.data.store.npy.encode_npy`), of height 1.

    A label of −1 is one that the source keeps secret. A status other than "ok" says why the image
    is left out; `data` is then empty. `treatment` says how `data` differs from the source's bytes,
    and what in it is ignored.
    """

    key: str
    data: bytes
    label: int
    height: int
    width: int
    status: str = "ok"
    treatment: str = ""


@dataclass(frozen=True)
class WrittenSplit:
    """A split whose files are complete, and the digest of its content."""

    manifest: SplitManifest
    digest: str


def write_store(
    folder: Path,
    *,
    name: str,
    classes: Sequence[ImageClass],
    splits: Mapping[str, Iterable[Sample]],
    source: Mapping[str, Any],
    contents: Contents = "images",
    shard_bytes: int = 256 * 2**20,
) -> Store:
    """Pack `splits`, one after the other, into `folder` and open the data set.

    `folder` appears with the last byte written, or not at all. `source` (JSON values) says where
    the images came from. Raises `UserError` when `folder` exists or can't be written, or a split
    is empty; `ValueError` for a key, label or image that a source must not yield.
    """
    if [c.index for c in classes] != list(range(len(classes))):
        raise ValueError("classes must be numbered 0, 1, 2 …")
    with new_folder(folder) as partial:
        written = {
            split: _pack_split(partial, split, len(classes), samples, shard_bytes)
            for split, samples in splits.items()
        }
        write_manifest(
            partial,
            folder,
            name=name,
            contents=contents,
            classes=classes,
            splits=written,
            source=source,
        )
    return Store.open(folder)


class SplitWriter:
    """Writes the index of one split, and computes the digest of its content."""

    def __init__(self, folder: Path, split: str, num_classes: int) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", split):
            raise ValueError(f"{split!r}: not a name of a split")
        self._num_classes = num_classes
        self._path = folder / f"{split}.parquet"
        self._index = IndexWriter(self._path)
        self._digest = hashlib.sha256()
        self._keys: set[str] = set()
        self._num_images = 0

    def add(self, row: IndexRow) -> None:
        """Append the next image; `ValueError` for one that a source must not yield."""
        if not is_key(row.key) or row.key in self._keys:
            raise ValueError(f"{row.key!r}: a repeated key, or none that WebDataset can hold")
        if not -1 <= row.label < self._num_classes:
            raise ValueError(f"{row.key!r}: label {row.label}")
        self._keys.add(row.key)
        self._num_images += row.status == "ok"
        self._index.add(row)
        self._digest.update(row.digest_input)

    def close(self) -> None:
        self._index.close()

    def written(self, shards: Iterable[ManifestFile]) -> WrittenSplit:
        """Return the split, once the writer is closed; its images are in `shards`."""
        manifest = SplitManifest(
            num_images=self._num_images,
            num_quarantined=len(self._keys) - self._num_images,
            index=describe_file(self._path),
            shards=tuple(shards),
        )
        return WrittenSplit(manifest, self._digest.hexdigest())


def pack_sample(sample: Sample, shards: ShardWriter) -> IndexRow:
    """Append the sample to the shards, unless it is left out, and return its row of the index."""
    is_ok = sample.status == "ok"
    if is_ok == (not sample.data):
        raise ValueError(f"{sample.key!r}: an image is either ok or has no data")
    place = shards.add(sample.key, sample.data, sample.label) if is_ok else None
    return IndexRow(
        key=sample.key,
        label=sample.label,
        shard=place.shard if place else None,
        offset=place.offset if place else None,
        size=len(sample.data),
        height=sample.height,
        width=sample.width,
        status=sample.status,
        treatment=sample.treatment,
        sha256=hashlib.sha256(sample.data).digest() if is_ok else None,
    )


def _pack_split(
    folder: Path, split: str, num_classes: int, samples: Iterable[Sample], shard_bytes: int
) -> WrittenSplit:
    writer = SplitWriter(folder, split, num_classes)
    shards = ShardWriter(folder, split, shard_bytes)
    with closing(shards), closing(writer):
        for sample in samples:
            writer.add(pack_sample(sample, shards))
    return writer.written(shards.files)


def write_manifest(
    folder: Path,
    target: Path,
    *,
    name: str,
    contents: Contents,
    classes: Sequence[ImageClass],
    splits: Mapping[str, WrittenSplit],
    source: Mapping[str, Any],
    places: Mapping[str, str] | None = None,
) -> None:
    """Write `dataset.json` in `folder`, which will be renamed to `target`."""
    digest = hashlib.sha256(json.dumps([c.name for c in classes]).encode())
    for split, written in splits.items():
        if not written.manifest.num_images:
            raise UserError(f"{target}: split '{split}' would have no images; add some")
        digest.update(f"{split} {written.digest}\n".encode())
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        contents=contents,
        digest=digest.hexdigest(),
        classes=tuple(classes),
        splits={split: written.manifest for split, written in splits.items()},
        source=dict(source),
        places=dict(places or {}),
    )
    path = folder / FILE_NAME
    path.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    sync(path)


def describe_file(path: Path) -> ManifestFile:
    """Return the name, size and digest of a file, once it has reached the disk."""
    sync(path)
    return ManifestFile(name=path.name, size=path.stat().st_size, sha256=sha256(path))
