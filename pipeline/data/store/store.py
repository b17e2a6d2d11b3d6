"""The packed data set, opened: a folder of tar shards, a Parquet index per split, `dataset.json`.

Loose files are slow to list, copy and open by the million; a few hundred shards aren't, and as tar
archives they remain readable by any WebDataset reader or by `tar` itself. Such readers go through a
shard in its order and so shuffle within a buffer of the next images only. Here the index gives the
shard, offset and size of every image, which is read directly, through a memory map or as a range of
a remote file: an epoch is shuffled as a whole, and a training resumes at any image without reading
those before. Labels and image sizes are in the index too, so that crops are planned before a byte
of an image is read.
"""

import hashlib
import resource
from collections.abc import Callable, Sequence
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
    Manifest,
    ManifestFile,
    SplitManifest,
    check_sizes,
    damaged,
    read_manifest,
)
from pipeline.data.store.remote import RangeCache, RemoteShards, remote_errors
from pipeline.data.store.verified_images import VerifiedImages, identity
from pipeline.runtime.errors import UserError
from pipeline.runtime.names import suggest


class Shards(Protocol):
    """Where the bytes of a split's images are, wherever that is."""

    def read(self, images: Sequence[int]) -> list[NDArray[np.uint8]]: ...


class Split:
    """The images (or signals) of one split, by index. Quarantined ones are not among them.

    `labels` is int64 of shape (n,), −1 where the label is secret, `sizes` int32 of shape (n, 2):
    height and width in pixels.
    """

    def __init__(
        self,
        name: str,
        contents: Contents,
        index: Index,
        shard_names: Sequence[str],
        shards: Shards,
        verified: VerifiedImages | None = None,
    ) -> None:
        self.name = name
        self.contents = contents
        self.labels = index.labels
        self.sizes = index.image_sizes
        self._index = index
        self._shard_names = shard_names
        self._shards = shards
        self._verified = verified or VerifiedImages(len(index.labels))

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        return tuple(self._index.keys.to_pylist())

    def encoded(self, i: int) -> NDArray[np.uint8]:
        """Return the bytes of image `i`, as a read-only view; raises `UserError`."""
        return self.encoded_batch([i])[0]

    def encoded_batch(self, images: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Return the bytes of `images`; those on remote storage are fetched concurrently."""
        return self._shards.read(images)

    def verified_batch(self, images: Sequence[int]) -> list[NDArray[np.uint8]]:
        """As `encoded_batch`; raises `ValueError` for an image that isn't what was packed.

        Each is compared with its digest once on a node, or once in a process where it isn't on the
        node's disk, so that the first epoch alone pays.
        """
        encoded = self.encoded_batch(images)
        for i, data in zip(images, encoded, strict=True):
            if i not in self._verified:
                if self._differs(i, data):
                    raise ValueError(f"{self.location(i)}: its bytes have changed")
                self._verified.add(i)
        return encoded

    def has_changed(self, i: int) -> bool:
        """Whether the bytes of image `i` are not those that were packed."""
        return self._differs(i, self.encoded(i))

    def _differs(self, i: int, data: NDArray[np.uint8]) -> bool:
        return hashlib.sha256(data.data).digest() != self._index.digests[i].tobytes()

    def location(self, i: int) -> str:
        """Return where image `i` is, for messages: `train-000000.tar: daisy/img_17`."""
        return f"{self._shard_names[self._index.shards[i]]}: {self._index.keys[i].as_py()}"


class Store:
    """A packed data set; written by `write_store` or `pack_parallel`, opened by `Store.open`."""

    def __init__(self, folder: Folder, manifest: Manifest, cache: CacheConfig | None) -> None:
        self.folder = folder
        self.name = manifest.name
        self.contents = manifest.contents
        self.classes = manifest.classes
        self.digest = manifest.digest
        self.source = manifest.source
        self._splits = manifest.splits
        self._cache = cache

    @staticmethod
    def open(folder: Folder, cache: CacheConfig | None = None) -> "Store":
        """Open the data set in `folder` after checking the size of every file.

        `cache` is for one on remote storage. Raises `UserError` when it is missing, incomplete or
        of another format version.
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

    def split_manifest(self, name: str) -> SplitManifest:
        """Return the manifest of split `name`; raises `UserError` for an unknown one."""
        if name not in self._splits:
            raise UserError(f"{self.folder}: no split '{name}'; {suggest(name, self._splits)}")
        return self._splits[name]

    def split(self, name: str, at_most: int | None = None) -> Split:
        """Read the index of split `name`, and open all its images or `at_most`, evenly spaced.

        Raises `UserError` for an unknown split or a damaged index.
        """
        manifest = self.split_manifest(name)
        path = self.folder / manifest.index.name
        with remote_errors(path):
            try:
                index = read_index(path)
            except (OSError, ValueError, pa.ArrowException) as error:
                raise damaged(path, f"can't be read ({str(error).splitlines()[0]})") from None
        if not _is_consistent(index, manifest, len(self.classes)):
            raise damaged(path, f"doesn't fit {FILE_NAME}")
        count, cache_name = len(index.labels), name
        if at_most is not None and at_most < count:
            index = index.take(np.linspace(0, count - 1, at_most).astype(np.int64))
            cache_name = f"{name}-{at_most}"
        names = [shard.name for shard in manifest.shards]
        if isinstance(self.folder, Path):
            mapped = MappedShards(self.folder, names, index)
            which = f"{manifest.index.sha256} {cache_name}"
            flags = identity(which, [self.folder / shard for shard in names])
            verified = VerifiedImages(len(index.labels), flags)
            return Split(name, self.contents, index, names, mapped, verified)
        cache = self._range_cache(cache_name, index)
        remote = RemoteShards(self.folder, names, index, cache)
        return Split(name, self.contents, index, names, remote)

    def _range_cache(self, split: str, index: Index) -> RangeCache | None:
        if self._cache is None:
            return None
        share = self._cache.gigabytes * 1e9 / sum(file.size for file in self._files)
        folder = self._cache.folder / f"{self.name}-{self.digest[:12]}"
        return RangeCache(folder, split, index, share)

    @property
    def _files(self) -> list[ManifestFile]:
        return [file for split in self._splits.values() for file in split.files]


def _max_open_maps() -> int:
    """Return how many maps of a split may be open: of two splits, half of the process's files.

    Python's map keeps a descriptor of its file, and a process may often have no more than 1,024:
    ILSVRC-2012 has 600 shards. The last used stay open; to map a shard again costs microseconds.
    """
    return max(1, min(256, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))


class MappedShards:
    """Shards on a local disk, as memory maps, of which a bounded number is open at a time."""

    def __init__(self, folder: Path, names: Sequence[str], index: Index) -> None:
        self._shards = tuple(folder / name for name in names)
        self._index = index

    def __getstate__(self) -> dict[str, Any]:
        # Each process opens its own maps.
        return {name: value for name, value in self.__dict__.items() if name != "_map"}

    @cached_property
    def _map(self) -> Callable[[Path], NDArray[np.uint8]]:
        return lru_cache(_max_open_maps())(_map)

    def read(self, images: Sequence[int]) -> list[NDArray[np.uint8]]:
        index, chosen = self._index, np.asarray(images, dtype=np.int64)
        places = (index.shards[chosen], index.offsets[chosen], index.sizes[chosen])
        return [
            self._map(self._shards[shard])[start : start + size]
            for shard, start, size in zip(*(each.tolist() for each in places), strict=True)
        ]


def store_folder(cluster: Cluster, name: str) -> Folder:
    """Return the folder or URL of the packed data set `name` on the cluster."""
    return as_folder(cluster.data_dir) / name


def _is_consistent(index: Index, manifest: SplitManifest, num_classes: int) -> bool:
    if len(index.labels) != manifest.num_images or not manifest.shards:
        return False
    shard_sizes = np.array([shard.size for shard in manifest.shards])
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
        raise damaged(path, f"can't be opened ({error})") from None
