"""Pack samples into a folder of shards, indexes and their description."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.atomic import new_folder
from pipeline.data.description import (
    FILE_NAME,
    FORMAT_VERSION,
    Contents,
    Description,
    File,
    ImageClass,
    SplitDescription,
    sha256,
)
from pipeline.data.index import IndexWriter, Row
from pipeline.data.shards import ShardWriter, is_key
from pipeline.errors import UserError
from pipeline.storage import sync

# A source tells it the number of images done, and of all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Sample:
    """An encoded image as a source yields it; height and width in pixels.

    Or a signal (`pipeline.data.signals.encode_signal`), of height 1.

    A status other than "ok" says why the image is left out; `data` is then empty.
    """

    key: str
    data: bytes
    label: int
    height: int
    width: int
    status: str = "ok"


def pack(
    folder: Path,
    *,
    name: str,
    contents: Contents,
    classes: Sequence[ImageClass],
    splits: Mapping[str, Iterable[Sample]],
    source: Mapping[str, Any],
    shard_bytes: int,
) -> None:
    """Write the data set; `pipeline.data.store.write_store` says what is expected and raised."""
    if [c.index for c in classes] != list(range(len(classes))):
        raise ValueError("classes must be numbered 0, 1, 2 …")
    with new_folder(folder) as partial:
        digest = hashlib.sha256(json.dumps([c.name for c in classes]).encode())
        written = {}
        for split, samples in splits.items():
            packer = _Packer(partial, split, len(classes), shard_bytes)
            written[split] = packer.pack(samples)
            digest.update(f"{split} {packer.digest.hexdigest()}\n".encode())
        empty = [split for split, packed in written.items() if not packed.num_images]
        if empty:
            raise UserError(f"{folder}: split '{empty[0]}' would have no images; add some")
        description = Description(
            format_version=FORMAT_VERSION,
            name=name,
            contents=contents,
            digest=digest.hexdigest(),
            classes=tuple(classes),
            splits=written,
            source=dict(source),
        )
        path = partial / FILE_NAME
        path.write_text(description.model_dump_json(indent=2) + "\n", encoding="utf-8")
        sync(path)


class _Packer:
    """Writes one split: its shards, its index, and a digest of what they say."""

    def __init__(self, folder: Path, split: str, num_classes: int, shard_bytes: int) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", split):
            raise ValueError(f"{split!r}: not a name of a split")
        self.digest = hashlib.sha256()
        self._num_classes = num_classes
        self._index_path = folder / f"{split}.parquet"
        self._index = IndexWriter(self._index_path)
        self._shards = ShardWriter(folder, split, shard_bytes)
        self._keys: set[str] = set()
        self._num_images = 0

    def pack(self, samples: Iterable[Sample]) -> SplitDescription:
        with closing(self._shards), closing(self._index):
            for sample in samples:
                self._add(sample)
        return SplitDescription(
            num_images=self._num_images,
            num_quarantined=len(self._keys) - self._num_images,
            index=_describe(self._index_path),
            shards=tuple(map(_describe, self._shards.paths)),
        )

    def _add(self, sample: Sample) -> None:
        if not is_key(sample.key) or sample.key in self._keys:
            raise ValueError(f"{sample.key!r}: a repeated key, or none that WebDataset can hold")
        if not 0 <= sample.label < self._num_classes:
            raise ValueError(f"{sample.key!r}: label {sample.label}")
        self._keys.add(sample.key)
        is_ok = sample.status == "ok"
        if is_ok == (not sample.data):
            raise ValueError(f"{sample.key!r}: an image is either ok or has no data")
        place = self._shards.add(sample.key, sample.data, sample.label) if is_ok else None
        self._num_images += is_ok
        row = Row(
            key=sample.key,
            label=sample.label,
            shard=place.shard if place else None,
            offset=place.offset if place else None,
            size=len(sample.data),
            height=sample.height,
            width=sample.width,
            status=sample.status,
        )
        self._index.add(row)
        facts = [row.key, row.label, row.size, row.height, row.width, row.status]
        self.digest.update(json.dumps(facts).encode() + b"\n" + sample.data)


def _describe(path: Path) -> File:
    sync(path)
    return File(name=path.name, size=path.stat().st_size, sha256=sha256(path))
