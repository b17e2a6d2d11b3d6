"""Pack a large data set in parts, each of which becomes one shard, by many processes, resumably.

A part is a function of the source alone: whoever packs it, and whenever, its bytes are the same.
What is finished of an interrupted packing is kept, and so the next one ends in the same bytes.
"""

import json
import math
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.store.atomic_folder import new_folder
from pipeline.data.store.image_check import Shrinking, treat_image
from pipeline.data.store.index import IndexWriter, read_rows
from pipeline.data.store.manifest import FILE_NAME, ImageClass, ManifestFile, SplitManifest
from pipeline.data.store.packing import (
    Progress,
    Sample,
    SplitWriter,
    describe_file,
    pack_sample,
    write_manifest,
)
from pipeline.data.store.parallel_map import parallel_map
from pipeline.data.store.shards import ShardWriter
from pipeline.data.store.store import Store
from pipeline.data.store.tar_listing import Member
from pipeline.runtime.errors import InterruptedByUserError, UserError
from pipeline.runtime.storage import sync, write_whole

PARTS = ".parts"
PART_BYTES = 256 * 2**20
# Starting Ray takes as long as packing about so many in this process.
_PARTS_WORTH_PROCESSES = 4


@dataclass(frozen=True)
class Images:
    """Encoded images of one split as columns: image i is `sizes[i]` bytes of `files[i]`.

    Offsets and sizes in bytes, int64 (n,); labels int64 (n,), −1 where the source keeps them
    secret.
    """

    keys: Sequence[str]
    files: Sequence[str]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    labels: NDArray[np.int64]

    @staticmethod
    def of(found: Sequence[tuple[str, Member, int]]) -> "Images":
        """Return the images of (key, where it lies, label); `UserError` for a key there twice."""
        keys = [key for key, _, _ in found]
        if len(set(keys)) < len(keys):
            key = Counter(keys).most_common(1)[0][0]
            file = next(member.file for name, member, _ in found if name == key)
            raise UserError(f"{file}: {key} is there twice; nobody knows which is meant")
        files = {member.file: str(member.file) for _, member, _ in found}
        return Images(
            keys=keys,
            files=[files[member.file] for _, member, _ in found],
            offsets=np.array([member.offset for _, member, _ in found], np.int64),
            sizes=np.array([member.size for _, member, _ in found], np.int64),
            labels=np.array([label for _, _, label in found], np.int64),
        )

    @staticmethod
    def joined(parts: Sequence["Images"]) -> "Images":
        """Return the images of all parts, whose keys must differ."""
        return Images(
            keys=list(chain.from_iterable(part.keys for part in parts)),
            files=list(chain.from_iterable(part.files for part in parts)),
            offsets=np.concatenate([part.offsets for part in parts]),
            sizes=np.concatenate([part.sizes for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, part: slice) -> "Images":
        return Images(*(column[part] for column in vars(self).values()))

    def samples(self, shrinking: Shrinking | None) -> Iterator[Sample]:
        """Yield the images, each decoded once (`pipeline.data.store.image_check.treat_image`)."""
        by_file = groupby(zip(*vars(self).values(), strict=True), key=itemgetter(1))
        for file, images in by_file:
            try:
                with Path(file).open("rb") as opened:
                    for key, _, offset, size, label in images:
                        opened.seek(offset)
                        yield treat_image(opened.read(size), key, int(label), shrinking)
            except OSError as error:
                raise UserError(
                    f"{file}: can't be read ({error.strerror}); mend that and run the same command "
                    "again"
                ) from None


@dataclass(frozen=True)
class Listing:
    """A source: its classes, the images of each split in the order in which they are packed.

    `identity` tells it from any other source, and from itself once it has changed.
    """

    classes: tuple[ImageClass, ...]
    splits: Mapping[str, Images]
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class ShardPlan:
    """What becomes shard `number` of a split, in folder `folder`."""

    folder: Path
    split: str
    number: int
    images: Images
    shrinking: Shrinking | None

    @property
    def rows(self) -> Path:
        return self.folder / PARTS / f"{self.split}-{self.number:06d}.parquet"

    @property
    def shard(self) -> Path:
        return self.folder / f"{self.split}-{self.number:06d}.tar"

    @property
    def record(self) -> Path:
        """The shard's `ManifestFile`; it is there when the part is finished."""
        return self.rows.with_suffix(".json")


def pack_parallel(
    folder: Path,
    *,
    name: str,
    listing: Listing,
    source: Mapping[str, Any],
    places: Mapping[str, str],
    num_workers: int,
    progress: Progress,
    shrinking: Shrinking | None = None,
    keep_bad: bool = True,
    part_bytes: int = PART_BYTES,
) -> Store:
    """Pack a listing into `folder` by `num_workers` processes; `progress` is told bytes.

    `source` says what is packed and how, all that decides the bytes; `places` where it is. Goes on
    where an earlier call with the same `source` stopped. Raises `UserError` when `folder` exists or
    can't be written, when files can't be read, and, without `keep_bad`, when images are bad; else
    these are in the index alone. Ctrl-C becomes `InterruptedByUserError`.
    """
    with new_folder(folder, resume=True) as partial:
        _begin(partial, {"name": name, **source})
        parts = list(plan_all_shards(partial, listing.splits, shrinking, part_bytes))
        if not (partial / FILE_NAME).exists():
            try:
                pack_shards(parts, num_workers, progress)
            except KeyboardInterrupt:
                raise InterruptedByUserError(
                    f"{folder}: stopped; the same command goes on from there"
                ) from None
            if not keep_bad:
                _refuse_bad(parts)
            written = {
                split: _assemble(
                    partial, split, [p for p in parts if p.split == split], listing.classes
                )
                for split in listing.splits
            }
            write_manifest(
                partial,
                folder,
                name=name,
                contents="images",
                classes=listing.classes,
                splits=written,
                source=source,
                places=places,
            )
    # Not before: what lies there says whose the folder is, and a kill would have all packed again.
    shutil.rmtree(folder / PARTS)
    return Store.open(folder)


def plan_all_shards(
    folder: Path, splits: Mapping[str, Images], shrinking: Shrinking | None, part_bytes: int
) -> Iterator[ShardPlan]:
    """Cut all splits into parts that will be shards in `folder`."""
    for split, whole in splits.items():
        for number, images in enumerate(plan_shards(whole, part_bytes)):
            yield ShardPlan(folder, split, number, images, shrinking)


def plan_shards(images: Images, part_bytes: int) -> Iterator[Images]:
    """Cut into parts of at most `part_bytes`, or one image."""
    start, size = 0, 0
    for i, bytes_more in enumerate(images.sizes.tolist()):
        if i > start and size + bytes_more > part_bytes:
            yield images[start:i]
            start, size = i, 0
        size += bytes_more
    yield images[start:]


def pack_shard(part: ShardPlan) -> None:
    """Write one shard, and its rows in the folder's `.parts`, unless the part is finished."""
    if part.record.exists():
        return
    shards = ShardWriter(part.folder, part.split, math.inf, first=part.number)
    unfinished = part.rows.with_suffix(".partial")
    index = IndexWriter(unfinished)
    with closing(shards), closing(index):
        for sample in part.images.samples(part.shrinking):
            index.add(pack_sample(sample, shards))
    if not shards.files:  # all were left out
        part.shard.write_bytes(bytes(tarfile.RECORDSIZE))
        shards.files.append(describe_file(part.shard))
    sync(unfinished)
    unfinished.replace(part.rows)
    write_whole(part.record, shards.files[0].model_dump_json().encode())


def _begin(partial: Path, source: Mapping[str, Any]) -> None:
    """Keep what is there of the same source; remove what is of another."""
    record, content = partial / PARTS / "source.json", json.dumps(source, sort_keys=True).encode()
    if not record.exists() or record.read_bytes() != content:
        shutil.rmtree(partial)
        record.parent.mkdir(parents=True)
        write_whole(record, content)


def pack_shards(parts: Sequence[ShardPlan], num_workers: int, progress: Progress) -> None:
    """Pack the parts that are not finished."""
    total = sum(int(part.images.sizes.sum()) for part in parts)
    open_parts = [part for part in parts if not part.record.exists()]
    done = total - sum(int(part.images.sizes.sum()) for part in open_parts)
    progress(done, total)

    def finished(number: int) -> None:
        nonlocal done
        done += int(open_parts[number].images.sizes.sum())
        progress(done, total)

    if len(open_parts) < _PARTS_WORTH_PROCESSES:
        num_workers = 0
    parallel_map(pack_shard, open_parts, num_workers, finished)


def _refuse_bad(parts: Sequence[ShardPlan]) -> None:
    bad = [
        f"{file}: {row.status}"
        for part in parts
        for file, row in zip(part.images.files, read_rows(part.rows), strict=True)
        if row.status != "ok"
    ]
    if bad:
        more = f" (and {len(bad) - 1} more bad images)" if len(bad) > 1 else ""
        raise UserError(f"{bad[0]}{more}; mend or remove it, or use --on-bad quarantine")


def _assemble(
    partial: Path, split: str, parts: Sequence[ShardPlan], classes: Sequence[ImageClass]
) -> tuple[SplitManifest, str]:
    writer = SplitWriter(partial, split, len(classes))
    with closing(writer):
        for part in parts:
            for row in read_rows(part.rows):
                writer.add(row)
    shards = [ManifestFile.model_validate_json(part.record.read_text()) for part in parts]
    return writer.manifest(shards), writer.digest.hexdigest()
