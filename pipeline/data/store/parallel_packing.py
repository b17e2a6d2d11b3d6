"""Packing a large data set shard by shard, in several processes, resumably.

The bytes of a shard depend on the source alone, not on the process or time of packing. The complete
shards of an interrupted packing are kept, and the next one ends in the same bytes.
"""

import json
import math
import shutil
import tarfile
import warnings
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.store.atomic_folder import new_folder
from pipeline.data.store.image_check import Shrinking, treat_image
from pipeline.data.store.index import IndexWriter, read_rows
from pipeline.data.store.manifest import FILE_NAME, ImageClass, ManifestFile
from pipeline.data.store.packing import (
    ProgressCallback,
    Sample,
    SplitWriter,
    WrittenSplit,
    describe_file,
    pack_sample,
    write_manifest,
)
from pipeline.data.store.parallel_map import parallel_map
from pipeline.data.store.shards import ShardWriter
from pipeline.data.store.store import Store
from pipeline.data.store.tar_listing import Member
from pipeline.runtime.errors import InterruptedByUserError, UserError
from pipeline.runtime.storage import sync, write_atomically

# The subfolder of what is needed until all shards are complete.
UNFINISHED = ".parts"
SHARD_BYTES = 256 * 2**20
# Starting Ray takes as long as packing about so many shards in this process.
_SHARDS_WORTH_PROCESSES = 4


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
    def of(found: Iterable[tuple[str, Member, int]]) -> "Images":
        """Return the images of (key, member, label); `UserError` for a key that is there twice."""
        keys: list[str] = []
        files: list[str] = []
        numbers = array("q")  # a list of Python's integers would take five times the memory
        for key, member, label in found:
            keys.append(key)
            files.append(str(member.file))
            numbers.extend((member.offset, member.size, label))
        if len(set(keys)) < len(keys):
            key = Counter(keys).most_common(1)[0][0]
            raise UserError(f"{files[keys.index(key)]}: {key} is there twice; remove or rename one")
        offsets, sizes, labels = np.frombuffer(numbers, np.int64).reshape(-1, 3).T.copy()
        return Images(keys, files, offsets, sizes, labels)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: slice) -> "Images":
        return Images(*(column[rows] for column in vars(self).values()))

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
                    f"{file}: can't be read ({error.strerror}); check it and run the same command "
                    "again"
                ) from None


@dataclass(frozen=True)
class Listing:
    """A source: its classes, and the images of each split in packing order.

    `identity` differs from that of any other source, and of this one before any change.
    """

    classes: tuple[ImageClass, ...]
    splits: Mapping[str, Images]
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class ShardPlan:
    """The images that become shard `number` of a split, in folder `folder`."""

    folder: Path
    split: str
    number: int
    images: Images
    shrinking: Shrinking | None

    @property
    def shard(self) -> Path:
        return self.folder / f"{self.split}-{self.number:06d}.tar"

    @property
    def rows(self) -> Path:
        """The shard's rows of the index."""
        return self.folder / UNFINISHED / f"{self.split}-{self.number:06d}.parquet"

    @property
    def record(self) -> Path:
        """The shard's `ManifestFile`, written when the shard is complete."""
        return self.rows.with_suffix(".json")

    @property
    def num_bytes(self) -> int:
        return int(self.images.sizes.sum())


def pack_parallel(
    folder: Path,
    *,
    name: str,
    listing: Listing,
    source: Mapping[str, Any],
    places: Mapping[str, str],
    num_workers: int,
    progress: ProgressCallback,
    shrinking: Shrinking | None = None,
    keep_bad: bool = True,
    shard_bytes: int = SHARD_BYTES,
) -> Store:
    """Pack a listing into `folder` by `num_workers` processes; `progress` is called with bytes.

    `source` holds everything that decides the packed bytes; `places` the paths it is read from.
    Continues an earlier call with the same `source` that was interrupted. Raises `UserError` when
    `folder` exists or can't be written, when files can't be read, and, without `keep_bad`, when
    images are bad; else these are in the index alone. Ctrl-C becomes `InterruptedByUserError`.
    """
    with new_folder(folder, resume=True) as partial:
        _begin(partial, {"name": name, **source})
        plans = plan_all_shards(partial, listing.splits, shrinking, shard_bytes)
        if not (partial / FILE_NAME).exists():
            try:
                pack_shards(plans, num_workers, progress)
            except KeyboardInterrupt:
                raise InterruptedByUserError(
                    f"{folder}: stopped; the same command goes on from there"
                ) from None
            if not keep_bad:
                _refuse_bad(plans)
            written = {
                split: _assemble(
                    partial, split, [p for p in plans if p.split == split], listing.classes
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
    # Only now: it records the source of a partial folder, and after a kill without it all would be
    # packed again.
    shutil.rmtree(folder / UNFINISHED)
    return Store.open(folder)


def plan_all_shards(
    folder: Path, splits: Mapping[str, Images], shrinking: Shrinking | None, shard_bytes: int
) -> list[ShardPlan]:
    """Divide all splits into shards in `folder`."""
    return [
        ShardPlan(folder, split, number, images, shrinking)
        for split, whole in splits.items()
        for number, images in enumerate(plan_shards(whole, shard_bytes))
    ]


def plan_shards(images: Images, shard_bytes: int) -> Iterator[Images]:
    """Yield the images of each shard, of at most `shard_bytes` before packing, or one image."""
    start, size = 0, 0
    for i, image_bytes in enumerate(images.sizes.tolist()):
        if i > start and size + image_bytes > shard_bytes:
            yield images[start:i]
            start, size = i, 0
        size += image_bytes
    yield images[start:]


def pack_shard(plan: ShardPlan) -> None:
    """Write one shard and its rows of the index, unless they are complete."""
    if plan.record.exists():
        return
    shards = ShardWriter(plan.folder, plan.split, math.inf, first=plan.number)
    unfinished = plan.rows.with_suffix(".partial")
    index = IndexWriter(unfinished)
    with closing(shards), closing(index), warnings.catch_warnings():
        # Pillow warns of odd metadata, which isn't read here, and of sizes that are refused.
        warnings.simplefilter("ignore")
        for sample in plan.images.samples(plan.shrinking):
            index.add(pack_sample(sample, shards))
    if not shards.files:  # all images were left out
        plan.shard.write_bytes(bytes(tarfile.RECORDSIZE))
        shards.files.append(describe_file(plan.shard))
    sync(unfinished)
    unfinished.replace(plan.rows)
    write_atomically(plan.record, shards.files[0].model_dump_json().encode())


def _begin(partial: Path, source: Mapping[str, Any]) -> None:
    """Keep the content of `partial` if it is of the same source; else remove it."""
    record = partial / UNFINISHED / "source.json"
    content = json.dumps(source, sort_keys=True).encode()
    if not record.exists() or record.read_bytes() != content:
        shutil.rmtree(partial)
        record.parent.mkdir(parents=True)
        write_atomically(record, content)


def pack_shards(plans: Sequence[ShardPlan], num_workers: int, progress: ProgressCallback) -> None:
    """Pack the shards that are not complete."""
    waiting = [plan for plan in plans if not plan.record.exists()]
    total = sum(plan.num_bytes for plan in plans)
    done = total - sum(plan.num_bytes for plan in waiting)
    progress(done, total)

    def on_finished(number: int) -> None:
        nonlocal done
        done += waiting[number].num_bytes
        progress(done, total)

    if len(waiting) < _SHARDS_WORTH_PROCESSES:
        num_workers = 0
    parallel_map(pack_shard, waiting, num_workers, on_finished)


def _refuse_bad(plans: Sequence[ShardPlan]) -> None:
    bad = [
        f"{file}: {row.status}"
        for plan in plans
        for file, row in zip(plan.images.files, read_rows(plan.rows), strict=True)
        if row.status != "ok"
    ]
    if bad:
        more = f" (and {len(bad) - 1} more bad images)" if len(bad) > 1 else ""
        raise UserError(f"{bad[0]}{more}; replace or remove it, or use --on-bad quarantine")


def _assemble(
    partial: Path, split: str, plans: Sequence[ShardPlan], classes: Sequence[ImageClass]
) -> WrittenSplit:
    writer = SplitWriter(partial, split, len(classes))
    with closing(writer):
        for plan in plans:
            for row in read_rows(plan.rows):
                writer.add(row)
    return writer.written(
        ManifestFile.model_validate_json(plan.record.read_text()) for plan in plans
    )
