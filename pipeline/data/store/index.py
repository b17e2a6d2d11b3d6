"""The Parquet index of a split: one row per image, in the order of the shards."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.config.cluster import Folder

# `shard`, `offset` and `sha256` are null, and `size` is 0, where `status` is not "ok". `treatment`
# says how the bytes differ from the source's, and what in them is ignored; else it is empty.
_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("label", pa.int64(), nullable=False),
        pa.field("shard", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("treatment", pa.string(), nullable=False),
        pa.field("sha256", pa.binary(32)),
    ]
)
# The columns that a training reads.
_TRAINING_COLUMNS = ("key", "label", "shard", "offset", "size", "height", "width", "sha256")
_ROW_GROUP = 65_536


@dataclass(frozen=True)
class IndexRow:
    """One image of the index; sizes and offset in bytes, height and width in pixels."""

    key: str
    label: int
    shard: int | None
    offset: int | None
    size: int
    height: int
    width: int
    status: str
    treatment: str
    sha256: bytes | None

    @property
    def digest_input(self) -> bytes:
        """The bytes that enter the data set's digest: all about an image but its location."""
        values = [self.key, self.label, self.size, self.height, self.width, self.status]
        return json.dumps(values).encode() + b"\n" + (self.sha256 or b"")


class IndexWriter:
    """Writes rows to a Parquet file, holding at most one row group of them."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, _SCHEMA, compression="zstd")
        self._rows: list[IndexRow] = []

    def add(self, row: IndexRow) -> None:
        self._rows.append(row)
        if len(self._rows) == _ROW_GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(list(map(vars, self._rows)), schema=_SCHEMA))
        self._rows.clear()


def read_rows(path: Folder) -> Iterator[IndexRow]:
    """Yield every row, including those of images that were left out."""
    with path.open("rb") as file:
        for batch in _parquet(file).iter_batches(use_threads=False):
            for row in batch.to_pylist():
                yield IndexRow(**row)


def _parquet(file: BinaryIO) -> pq.ParquetFile:
    """Open `file`, to be read by the calling thread alone (with `use_threads=False`).

    A thread of Arrow's may be the last to hold a buffer of a Python file; if it releases the buffer
    while the interpreter ends, the process aborts.
    """
    return pq.ParquetFile(file, pre_buffer=False)


@dataclass(frozen=True)
class Index:
    """The images of a split whose status is "ok", as columns.

    `keys` are strings; `sizes` and `offsets` in bytes; `image_sizes` (n, 2): height and width in
    pixels; `digests` (n, 32): SHA-256 of the images' bytes.
    """

    keys: pa.ChunkedArray
    labels: NDArray[np.int64]
    shards: NDArray[np.int32]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    image_sizes: NDArray[np.int32]
    digests: NDArray[np.uint8]

    def take(self, images: NDArray[np.int64]) -> "Index":
        """Return the rows of `images`, by their numbers."""
        return Index(
            self.keys.take(images),
            self.labels[images],
            self.shards[images],
            self.offsets[images],
            self.sizes[images],
            self.image_sizes[images],
            self.digests[images],
        )


def read_index(path: Folder) -> Index:
    """Read the rows whose status is "ok".

    Raises `OSError`, `ValueError` or pyarrow's errors on a damaged file.
    """
    keys: list[pa.Array] = []
    with path.open("rb") as file:
        parquet = _parquet(file)
        if not parquet.schema_arrow.equals(_SCHEMA):
            raise pa.ArrowInvalid("other columns than an index has")
        count = parquet.metadata.num_rows
        labels, shards = np.empty(count, np.int64), np.empty(count, np.int32)
        offsets, sizes = np.empty(count, np.int64), np.empty(count, np.int64)
        image_sizes = np.empty((count, 2), np.int32)
        digests = np.empty((count, 32), np.uint8)
        filled = 0
        # Group by group, so that only one is in memory twice.
        for number in range(parquet.num_row_groups):
            group = parquet.read_row_group(
                number, [*_TRAINING_COLUMNS, "status"], use_threads=False
            )
            # In a damaged file, nulls are dropped, which leaves too few, and keys must be UTF-8.
            good = group.filter(pc.equal(group["status"], "ok")).drop_null()
            good.validate(full=True)
            rows = slice(filled, filled + len(good))
            labels[rows], shards[rows] = good["label"], good["shard"]
            offsets[rows], sizes[rows] = good["offset"], good["size"]
            image_sizes[rows, 0], image_sizes[rows, 1] = good["height"], good["width"]
            digests[rows] = np.array(good["sha256"], "V32")[:, None].view(np.uint8)
            keys += good["key"].chunks
            filled += len(good)
    return Index(
        keys=pa.chunked_array(keys, pa.string()),
        labels=labels[:filled],
        shards=shards[:filled],
        offsets=offsets[:filled],
        sizes=sizes[:filled],
        image_sizes=image_sizes[:filled],
        digests=digests[:filled],
    )
