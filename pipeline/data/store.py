"""The packed data set: a folder of tar shards, an index per split, and `dataset.json`.

The shards can be read in order by any WebDataset reader; here they are read by index, through
memory maps, so that an epoch can be shuffled as a whole.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.data.atomic import new_folder, sync
from pipeline.data.index import Index, IndexWriter, Row, read_index
from pipeline.data.shards import ShardWriter, is_key
from pipeline.documents import Section, validate
from pipeline.errors import UserError

FORMAT_VERSION = 1
_DESCRIPTION = "dataset.json"


@dataclass(frozen=True)
class Sample:
    """An encoded image as a source yields it; height and width in pixels.

    A status other than "ok" says why the image is left out; `data` is then empty.
    """

    key: str
    data: bytes
    label: int
    height: int
    width: int
    status: str = "ok"


@dataclass(frozen=True)
class ImageClass:
    """A class: the label's number and its name."""

    index: int
    name: str


class _File(Section):
    name: str
    size: int
    sha256: str


class _SplitDescription(Section):
    num_images: int
    num_quarantined: int
    index: _File
    shards: tuple[_File, ...]

    @property
    def files(self) -> tuple[_File, ...]:
        return (self.index, *self.shards)


class _Description(Section):
    """`dataset.json`. The digest covers classes, keys, labels and images, not how they are cut."""

    format_version: int
    name: str
    digest: str
    classes: tuple[ImageClass, ...]
    splits: dict[str, _SplitDescription]
    source: dict[str, Any]


class Split:
    """The images of one split, by index. Quarantined ones are not among them.

    `labels` is int64 of shape (n,), `sizes` int32 of shape (n, 2): height and width in pixels.
    """

    def __init__(self, name: str, num_quarantined: int, shards: Sequence[Path], index: Index):
        self.name = name
        self.num_quarantined = num_quarantined
        self.labels = index.labels
        self.sizes = index.image_sizes
        self._index = index
        self._shards = tuple(shards)
        self._maps: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        # Another process opens maps of its own.
        return {**self.__dict__, "_maps": {}}

    @cached_property
    def keys(self) -> tuple[str, ...]:
        return tuple(self._index.keys.to_pylist())

    def encoded(self, i: int) -> NDArray[np.uint8]:
        """Return the bytes of image `i` as a read-only view of its memory-mapped shard."""
        shard = int(self._index.shards[i])
        if shard not in self._maps:
            self._maps[shard] = _map(self._shards[shard])
        start = int(self._index.offsets[i])
        return self._maps[shard][start : start + int(self._index.sizes[i])]

    def location(self, i: int) -> str:
        """Return where image `i` is, for messages: `train-000000.tar: daisy/img_17`."""
        return f"{self._shards[self._index.shards[i]].name}: {self._index.keys[i].as_py()}"


class Store:
    """A packed data set on disk; made by `write_store`, opened by `Store.open`."""

    def __init__(self, folder: Path, description: _Description) -> None:
        self.folder = folder
        self.name = description.name
        self.classes = description.classes
        self.digest = description.digest
        self.source = description.source
        self._splits = description.splits

    @staticmethod
    def open(folder: Path) -> "Store":
        """Open the data set in `folder` after a look at the size of every file.

        Raises `UserError` when it is not there, not whole, or of another format version.
        """
        path = folder / _DESCRIPTION
        if not folder.is_dir():
            raise UserError(f"{folder}: no such data set; run `ilsvrc prepare` to make it")
        if not path.is_file():
            raise UserError(f"{folder}: not a packed data set (it has no {_DESCRIPTION})")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content["format_version"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}: can't be read ({error}); {_again(folder)}") from None
        if version != FORMAT_VERSION:
            raise UserError(
                f"{path}: format version {version}, but this program reads {FORMAT_VERSION}; "
                f"{_again(folder)}"
            )
        store = Store(folder, validate(_Description, content, path))
        for file in store._files:
            _check_size(folder / file.name, file.size)
        return store

    @property
    def split_names(self) -> tuple[str, ...]:
        return tuple(self._splits)

    @property
    def num_quarantined(self) -> int:
        return sum(split.num_quarantined for split in self._splits.values())

    def split(self, name: str) -> Split:
        """Read the index of split `name`; raises `UserError` for an unknown or a damaged one."""
        if name not in self._splits:
            raise UserError(
                f"{self.folder}: no split '{name}'; there are: {', '.join(self._splits)}"
            )
        split = self._splits[name]
        path = self.folder / split.index.name
        try:
            index = read_index(path)
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: can't be read ({reason}); {_again(self.folder)}") from None
        if not _is_consistent(index, split, len(self.classes)):
            raise UserError(f"{path}: doesn't fit {_DESCRIPTION}; {_again(self.folder)}")
        shards = [self.folder / shard.name for shard in split.shards]
        return Split(name, split.num_quarantined, shards, index)

    def verify(self) -> None:
        """Read every byte again; raises `UserError` that names the first file that has changed."""
        for file in self._files:
            path = self.folder / file.name
            _check_size(path, file.size)
            if _sha256(path) != file.sha256:
                raise UserError(f"{path}: its bytes have changed; {_again(self.folder)}")

    @property
    def _files(self) -> list[_File]:
        return [file for split in self._splits.values() for file in split.files]


def write_store(
    folder: Path,
    *,
    name: str,
    classes: Sequence[ImageClass],
    splits: Mapping[str, Iterable[Sample]],
    source: Mapping[str, Any],
    shard_bytes: int = 256 * 2**20,
) -> Store:
    """Pack `splits`, one after the other, and return the data set that is then in `folder`.

    `folder` appears with the last byte written, or not at all. `source` (JSON values) says where
    the images came from. Raises `UserError` when `folder` exists or can't be written, or a split
    is empty; `ValueError` for a key, label or image that a source must not yield.
    """
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
        description = _Description(
            format_version=FORMAT_VERSION,
            name=name,
            digest=digest.hexdigest(),
            classes=tuple(classes),
            splits=written,
            source=dict(source),
        )
        path = partial / _DESCRIPTION
        path.write_text(description.model_dump_json(indent=2) + "\n", encoding="utf-8")
        sync(path)
    return Store.open(folder)


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

    def pack(self, samples: Iterable[Sample]) -> _SplitDescription:
        with closing(self._shards), closing(self._index):
            for sample in samples:
                self._add(sample)
        return _SplitDescription(
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


def _is_consistent(index: Index, split: _SplitDescription, num_classes: int) -> bool:
    if len(index.labels) != split.num_images or not split.shards:
        return False
    shard_sizes = np.array([shard.size for shard in split.shards])
    return bool(
        np.all((index.labels >= 0) & (index.labels < num_classes))
        and np.all((index.shards >= 0) & (index.shards < len(shard_sizes)))
        and np.all((index.offsets >= 0) & (index.sizes > 0))
        and np.all(index.offsets + index.sizes <= shard_sizes[index.shards])
    )


def _describe(path: Path) -> _File:
    sync(path)
    return _File(name=path.name, size=path.stat().st_size, sha256=_sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_size(path: Path, size: int) -> None:
    if not path.is_file():
        raise UserError(f"{path}: missing; {_again(path.parent)}")
    if path.stat().st_size != size:
        raise UserError(
            f"{path}: {path.stat().st_size:,} bytes where {size:,} were written; "
            f"{_again(path.parent)}"
        )


def _map(path: Path) -> NDArray[np.uint8]:
    try:
        return np.memmap(path, mode="r").view(np.ndarray)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be opened ({error}); {_again(path.parent)}") from None


def _again(folder: Path) -> str:
    return f"remove {folder} and run `ilsvrc prepare` again"
