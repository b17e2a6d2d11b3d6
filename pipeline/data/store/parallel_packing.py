"""Packing a large data set shard by shard, in several processes, resumably.

The bytes of a shard depend on the source alone, not on the process or time of packing. The complete
shards of an interrupted packing are kept, and the next one ends in the same bytes.
"""

import hashlib
import json
import math
import shutil
import tarfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.config.yaml import Section
from pipeline.data.store.atomic_folder import new_folder
from pipeline.data.store.image_check import Shrinking, pillows_warnings_ignored, treat_image
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
_PARTS_VERSION = 2  # of what is in UNFINISHED


# Reads an image by its offset and size; an opened file gives one.
Read = Callable[[int, int], bytes]
Opener = Callable[[str], AbstractContextManager[Read]]


@contextmanager
def open_plain(file: str) -> Iterator[Read]:
    """Open a file that holds the images as they are: one image, or a tar archive."""
    with Path(file).open("rb") as opened:

        def read(offset: int, size: int) -> bytes:
            opened.seek(offset)
            return opened.read(size)

        yield read


@dataclass(frozen=True)
class Images:
    """Encoded images of one split as columns: image i is `sizes[i]` bytes of `files[i]`.

    Offsets and sizes in bytes, int64 (n,); labels int64 (n,), −1 where the source keeps them
    secret. What they mean is up to `opener`, by which each file is read; sizes are those in the
    file, or about that.
    """

    keys: Sequence[str]
    files: Sequence[str]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    labels: NDArray[np.int64]
    opener: Opener = open_plain

    @staticmethod
    def of(found: Iterable[tuple[str, Member, int]], opener: Opener = open_plain) -> "Images":
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
        return Images(keys, files, offsets, sizes, labels, opener)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: slice) -> "Images":
        keys, files, offsets, sizes, labels = (column[rows] for column in self._columns)
        return Images(keys, files, offsets, sizes, labels, self.opener)

    @property
    def _columns(self) -> tuple[Any, ...]:
        return self.keys, self.files, self.offsets, self.sizes, self.labels

    def place(self, i: int) -> str:
        """Return where image `i` is, for messages: its file, or its archive and key."""
        is_a_file = self.opener is open_plain and not self.offsets[i]
        return self.files[i] if is_a_file else f"{self.files[i]}: {self.keys[i]}"

    def digest(self) -> str:
        """Return what changes with any column, and with the size or time of any file."""
        digest = hashlib.sha256()
        for text in (self.keys, self.files):
            digest.update("\n".join(text).encode(errors="surrogateescape") + b"\n")
        for column in (self.offsets, self.sizes, self.labels):
            digest.update(column.tobytes())
        for file, _ in groupby(self.files):
            try:
                status = Path(file).stat()
            except OSError as error:
                raise _unreadable(file, error) from None
            digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def samples(self, shrinking: Shrinking | None) -> Iterator[Sample]:
        """Yield the images, each decoded once (`pipeline.data.store.image_check.treat_image`)."""
        by_file = groupby(zip(*self._columns, strict=True), key=itemgetter(1))
        for file, images in by_file:
            try:
                with self.opener(file) as read:
                    for key, _, offset, size, label in images:
                        data = read(int(offset), int(size))
                        yield treat_image(data, key, int(label), shrinking)
            except OSError as error:
                raise _unreadable(file, error) from None


def _unreadable(file: str, error: OSError) -> UserError:
    return UserError(
        f"{file}: can't be read ({error.strerror}); check it and run the same command again"
    )


@dataclass(frozen=True)
class Listing:
    """A source: its classes, and the images of each split in packing order.

    `identity` differs from that of any other source, and of this one before any change. `notes`
    tell the user what was met and left out, or is unusual; `places` are the paths it is read from.
    """

    classes: tuple[ImageClass, ...]
    splits: Mapping[str, Images]
    identity: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ShardPlan:
    """The images that become shard `number` of a split, in folder `folder`.

    Without `keep_bad`, the first bad image ends the packing.
    """

    folder: Path
    split: str
    number: int
    images: Images
    shrinking: Shrinking | None
    keep_bad: bool = True

    @property
    def shard(self) -> Path:
        return self.folder / f"{self.split}-{self.number:06d}.tar"

    @property
    def rows(self) -> Path:
        """The shard's rows of the index."""
        return self.folder / UNFINISHED / f"{self.split}-{self.number:06d}.parquet"

    @property
    def record(self) -> Path:
        """The shard's `CompleteShard`, written when it is one."""
        return self.rows.with_suffix(".json")

    @property
    def num_bytes(self) -> int:
        return int(self.images.sizes.sum())


class CompleteShard(Section):
    """A shard that is complete; `inputs` changes with anything that it was made of."""

    file: ManifestFile
    inputs: str


def pack_parallel(
    folder: Path,
    *,
    name: str,
    listing: Listing,
    source: Mapping[str, Any],
    num_workers: int,
    progress: ProgressCallback,
    shrinking: Shrinking | None = None,
    keep_bad: bool = True,
    shard_bytes: int = SHARD_BYTES,
) -> Store:
    """Pack a listing into `folder` by `num_workers` processes; `progress` is called with bytes.

    `source` holds everything that decides the packed bytes.
    Continues an earlier call that was interrupted; if the source has changed since, with the shards
    that it leaves as they are. Raises `UserError` when `folder` exists or can't be written, when
    files can't be read, and, without `keep_bad`, at the first bad image; else these are in the
    index alone. Ctrl-C becomes `InterruptedByUserError`.
    """
    with new_folder(folder, resume=True) as partial:
        plans = plan_all_shards(partial, listing.splits, shrinking, shard_bytes, keep_bad)
        _begin(partial, {"name": name, **source}, plans)
        if not keep_bad:
            _repack_bad(plans)
        if not (partial / FILE_NAME).exists():
            try:
                pack_shards(plans, num_workers, progress)
            except KeyboardInterrupt:
                raise InterruptedByUserError(
                    f"{folder}: stopped; the same command goes on from there"
                ) from None
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
                places=listing.places,
            )
    # Only now: it records the source of a partial folder, and after a kill without it all would be
    # packed again.
    shutil.rmtree(folder / UNFINISHED)
    return Store.open(folder)


def plan_all_shards(
    folder: Path,
    splits: Mapping[str, Images],
    shrinking: Shrinking | None,
    shard_bytes: int,
    keep_bad: bool = True,
) -> list[ShardPlan]:
    """Divide all splits into shards in `folder`."""
    return [
        ShardPlan(folder, split, number, images, shrinking, keep_bad)
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
    inputs = _inputs(plan)  # before they are read: a change meanwhile is one
    shards = ShardWriter(plan.folder, plan.split, math.inf, first=plan.number)
    unfinished = plan.rows.with_suffix(".partial")
    index = IndexWriter(unfinished)
    with closing(shards), closing(index), pillows_warnings_ignored():
        for number, sample in enumerate(plan.images.samples(plan.shrinking)):
            if sample.status != "ok" and not plan.keep_bad:
                raise UserError(
                    f"{plan.images.place(number)}: {sample.status}; replace or remove it, or use "
                    "--on-bad quarantine; --list-bad lists all such"
                )
            index.add(pack_sample(sample, shards))
    if not shards.files:  # all images were left out
        plan.shard.write_bytes(bytes(tarfile.RECORDSIZE))
        shards.files.append(describe_file(plan.shard))
    sync(unfinished)
    unfinished.replace(plan.rows)
    complete = CompleteShard(file=shards.files[0], inputs=inputs)
    write_atomically(plan.record, complete.model_dump_json().encode())


def find_bad(
    listing: Listing, scratch: Path, num_workers: int, progress: ProgressCallback
) -> list[str]:
    """Decode all images of a listing; return each bad one's place and what is wrong with it.

    `scratch` is an empty folder that all processes see. Raises `UserError` as `pack_parallel`.
    """
    plans = plan_all_shards(scratch, listing.splits, None, SHARD_BYTES)
    (scratch / UNFINISHED).mkdir()
    _for_each(_check_shard, plans, plans, num_workers, progress)
    return [line for plan in plans for line in json.loads(plan.record.read_text())]


def _check_shard(plan: ShardPlan) -> None:
    with pillows_warnings_ignored():
        samples = enumerate(plan.images.samples(None))
        bad = [
            f"{plan.images.place(number)}: {sample.status}"
            for number, sample in samples
            if sample.status != "ok"
        ]
    write_atomically(plan.record, json.dumps(bad).encode())


def _begin(partial: Path, source: Mapping[str, Any], plans: Sequence[ShardPlan]) -> None:
    """Keep of `partial` what is of the same source, or of what has not changed in it."""
    record = partial / UNFINISHED / "source.json"
    content = json.dumps({**source, "parts": _PARTS_VERSION}, sort_keys=True).encode()
    if record.exists() and record.read_bytes() == content:
        return
    same = [
        plan for plan in plans if plan.record.exists() and _inputs_of(plan.record) == _inputs(plan)
    ]
    kept = {path for plan in same for path in (plan.shard, plan.rows, plan.record)}
    (partial / UNFINISHED).mkdir(exist_ok=True)
    for path in (*partial.iterdir(), *(partial / UNFINISHED).iterdir()):
        if path not in kept and path != partial / UNFINISHED:
            path.unlink()
    write_atomically(record, content)


def _inputs(plan: ShardPlan) -> str:
    return f"{plan.images.digest()} {plan.shrinking}"


def _inputs_of(record: Path) -> str | None:
    try:
        return CompleteShard.model_validate_json(record.read_bytes()).inputs
    except ValidationError:  # of another version
        return None


def _repack_bad(plans: Sequence[ShardPlan]) -> None:
    """Have shards packed again that lack bad images, as an earlier call may have left them."""
    for plan in plans:
        if plan.record.exists() and any(row.status != "ok" for row in read_rows(plan.rows)):
            plan.record.unlink()


def pack_shards(plans: Sequence[ShardPlan], num_workers: int, progress: ProgressCallback) -> None:
    """Pack the shards that are not complete."""
    waiting = [plan for plan in plans if not plan.record.exists()]
    _for_each(pack_shard, waiting, plans, num_workers, progress)


def _for_each(
    function: Callable[[ShardPlan], None],
    waiting: Sequence[ShardPlan],
    plans: Sequence[ShardPlan],
    num_workers: int,
    progress: ProgressCallback,
) -> None:
    """Call `function` on those of `plans` that wait, in several processes where it pays."""
    total = sum(plan.num_bytes for plan in plans)
    done = total - sum(plan.num_bytes for plan in waiting)
    progress(done, total)

    def on_finished(number: int) -> None:
        nonlocal done
        done += waiting[number].num_bytes
        progress(done, total)

    if len(waiting) < _SHARDS_WORTH_PROCESSES:
        num_workers = 0
    parallel_map(function, waiting, num_workers, on_finished)


def _assemble(
    partial: Path, split: str, plans: Sequence[ShardPlan], classes: Sequence[ImageClass]
) -> WrittenSplit:
    writer = SplitWriter(partial, split, len(classes))
    with closing(writer):
        for plan in plans:
            for row in read_rows(plan.rows):
                writer.add(row)
    return writer.written(
        CompleteShard.model_validate_json(plan.record.read_bytes()).file for plan in plans
    )
