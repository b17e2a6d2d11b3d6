"""The packed data set: a folder of tar shards, an index per split, and `dataset.json`.

The shards can be read in order by any WebDataset reader; here they are read by index, through
memory maps, so that an epoch can be shuffled as a whole.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config.cluster import CacheConfig, Cluster, Folder, as_folder
from pipeline.data.store.index import Index, read_index
from pipeline.data.store.manifest import (
    FILE_NAME,
    Contents,
    ImageClass,
    Manifest,
    ManifestFile,
    SplitManifest,
    again,
    check_sizes,
    read_manifest,
)
from pipeline.data.store.packing import Sample, pack_samples
from pipeline.data.store.remote import RangeCache, RemoteShards, reached
from pipeline.runtime.errors import UserError


class Shards(Protocol):
    """The shards of one split, which give the bytes of images."""

    def read(self, images: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Return the bytes of `images`, read-only; raises `UserError` that names the shard."""
        ...


class Split:
    """The images (or signals) of one split, by index. Quarantined ones are not among them.

    `labels` is int64 of shape (n,), −1 where nobody knows it, `sizes` int32 of shape (n, 2): height
    and width in pixels.
    """

    def __init__(
        self,
        name: str,
        description: SplitManifest,
        contents: Contents,
        index: Index,
        shards: Shards,
    ) -> None:
        self.name = name
        self.contents = contents
        self.num_quarantined = description.num_quarantined
        self.labels = index.labels
        self.sizes = index.image_sizes
        self._index = index
        self._shard_names = [shard.name for shard in description.shards]
        self._shards = shards

    def __len__(self) -> int:
        return len(self.labels)

    def spread(self, count: int) -> "Split":
        """Return `count` images, or all if there are fewer, spread evenly over the split."""
        chosen = np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).astype(np.int64))
        part = copy.copy(self)
        part.__dict__.pop("keys", None)
        part._index = self._index.take(chosen)
        part.labels, part.sizes = part._index.labels, part._index.image_sizes
        part._shards = _Chosen(self._shards, chosen)
        return part

    @cached_property
    def keys(self) -> tuple[str, ...]:
        return tuple(self._index.keys.to_pylist())

    def encoded(self, i: int) -> NDArray[np.uint8]:
        """Return the bytes of image `i`, as a read-only view; raises `UserError`."""
        return self.encoded_batch([i])[0]

    def encoded_batch(self, images: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Return the bytes of `images`; from remote storage they come at the same time."""
        return self._shards.read(images)

    def location(self, i: int) -> str:
        """Return where image `i` is, for messages: `train-000000.tar: daisy/img_17`."""
        return f"{self._shard_names[self._index.shards[i]]}: {self._index.keys[i].as_py()}"


class Store:
    """A packed data set on disk; made by `write_store`, opened by `Store.open`."""

    def __init__(self, folder: Folder, description: Manifest, cache: CacheConfig | None) -> None:
        self.folder = folder
        self.name = description.name
        self.contents = description.contents
        self.classes = description.classes
        self.digest = description.digest
        self.source = description.source
        self._splits = description.splits
        self._cache = cache

    @staticmethod
    def open(folder: Folder, cache: CacheConfig | None = None) -> "Store":
        """Open the data set in `folder` after a look at the size of every file.

        `cache` is for one on remote storage. Raises `UserError` when it is not there, not whole,
        or of another format version.
        """
        store = Store(folder, read_manifest(folder), cache)
        check_sizes(folder, store._files)
        return store

    @property
    def split_names(self) -> tuple[str, ...]:
        return tuple(self._splits)

    @property
    def num_quarantined(self) -> int:
        return sum(split.num_quarantined for split in self._splits.values())

    def description(self, name: str) -> SplitManifest:
        """Return what `dataset.json` says of a split; raises `UserError` for an unknown one."""
        if name not in self._splits:
            raise UserError(
                f"{self.folder}: no split '{name}'; there are: {', '.join(self._splits)}"
            )
        return self._splits[name]

    def split(self, name: str) -> Split:
        """Read the index of split `name`; raises `UserError` for an unknown or a damaged one."""
        split = self.description(name)
        path = self.folder / split.index.name
        with reached(path):
            try:
                index = read_index(path)
            except (OSError, ValueError, pa.ArrowException) as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"{path}: can't be read ({reason}); {again(self.folder)}") from None
        if not _is_consistent(index, split, len(self.classes)):
            raise UserError(f"{path}: doesn't fit {FILE_NAME}; {again(self.folder)}")
        return Split(name, split, self.contents, index, self._shards(name, index))

    def _shards(self, name: str, index: Index) -> Shards:
        names = [shard.name for shard in self._splits[name].shards]
        if isinstance(self.folder, Path):
            return MappedShards([self.folder / shard for shard in names], index)
        return RemoteShards(
            [self.folder / shard for shard in names], index, self._kept(name, index)
        )

    def _kept(self, name: str, index: Index) -> RangeCache | None:
        if self._cache is None:
            return None
        share = self._cache.gigabytes * 1e9 / sum(file.size for file in self._files)
        return RangeCache(
            self._cache.folder / f"{self.name}-{self.digest[:12]}", name, index, share
        )

    @property
    def _files(self) -> list[ManifestFile]:
        return [file for split in self._splits.values() for file in split.files]


class _Chosen:
    """Some images of other shards, by their place among them."""

    def __init__(self, shards: Shards, chosen: NDArray[np.int64]) -> None:
        self._shards, self._chosen = shards, chosen

    def read(self, images: Sequence[int]) -> list[NDArray[np.uint8]]:
        return self._shards.read(self._chosen[list(images)].tolist())


# Python's map keeps a descriptor of its file, and a process may often have no more than 1,024:
# ILSVRC-2012 has 600 shards. What was used last stays; to map a shard again costs microseconds.
_MOST_MAPS = 256


class MappedShards:
    """Shards on a local disk, as memory maps, of which a bounded number is open at a time."""

    def __init__(self, shards: Sequence[Path], index: Index) -> None:
        self._shards = tuple(shards)
        self._index = index

    def __getstate__(self) -> dict[str, Any]:
        # Another process opens maps of its own.
        return {name: value for name, value in self.__dict__.items() if name != "_map"}

    @cached_property
    def _map(self) -> Callable[[Path], NDArray[np.uint8]]:
        return lru_cache(_MOST_MAPS)(_map)

    def read(self, images: Sequence[int]) -> list[NDArray[np.uint8]]:
        return [self._read(i) for i in images]

    def _read(self, i: int) -> NDArray[np.uint8]:
        shard = self._map(self._shards[self._index.shards[i]])
        start = int(self._index.offsets[i])
        return shard[start : start + int(self._index.sizes[i])]


def store_folder(cluster: Cluster, name: str) -> Folder:
    """Return where the cluster has the packed data set `name`."""
    return as_folder(cluster.data_dir) / name


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
    """Pack `splits`, one after the other, and return the data set that is then in `folder`.

    `folder` appears with the last byte written, or not at all. `source` (JSON values) says where
    the images came from. Raises `UserError` when `folder` exists or can't be written, or a split
    is empty; `ValueError` for a key, label or image that a source must not yield.
    """
    pack_samples(
        folder,
        name=name,
        contents=contents,
        classes=classes,
        splits=splits,
        source=source,
        shard_bytes=shard_bytes,
    )
    return Store.open(folder)


def _is_consistent(index: Index, split: SplitManifest, num_classes: int) -> bool:
    if len(index.labels) != split.num_images or not split.shards:
        return False
    shard_sizes = np.array([shard.size for shard in split.shards])
    return bool(
        np.all((index.labels >= -1) & (index.labels < num_classes))
        and np.all((index.shards >= 0) & (index.shards < len(shard_sizes)))
        and np.all((index.offsets >= 0) & (index.sizes > 0))
        and np.all(index.offsets + index.sizes <= shard_sizes[index.shards])
    )


def _map(path: Path) -> NDArray[np.uint8]:
    try:
        return np.memmap(path, mode="r").view(np.ndarray)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be opened ({error}); {again(path.parent)}") from None
