"""Hugging Face's Parquet files: SPLIT-00000-of-00010.parquet with columns of images and labels."""

import hashlib
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.sources.naming import (
    image_key,
    left_out_note,
    numbered_classes,
    official_stem,
    split_named,
)
from pipeline.data.store.parallel_packing import Images, Listing, Read
from pipeline.data.store.tar_listing import Member
from pipeline.runtime.errors import UserError

_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class _Columns:
    """The columns of images and labels; `names` are the classes', where the file has them."""

    image: str
    label: str
    names: tuple[str, ...]


def list_parquet(
    source: Path,
    *,
    image_key: str | None = None,
    label_key: str | None = None,
    split: str | None = None,
) -> Listing:
    """List the images of the Parquet files below `source`, a folder or a file, in their order.

    A file's split is told by its name, its folder's, or `split`. `image_key` is the column of
    {bytes, path}, or of bytes, and `label_key` that of the class's number; None: `image` and
    `label`, or the only ones of their kinds. Where the paths are ILSVRC's names, the keys are these
    and the classes WNIDs, as from the official archives. Raises `UserError` for files without such
    columns, and images that are not in the file.
    """
    files = _files(source, split)
    found: dict[str, list[tuple[str, Member, int, str | None]]] = {}
    columns: _Columns | None = None
    for path, of_split in files:
        with _opened(path) as parquet:
            own = _columns(path, parquet, image_key, label_key)
            if columns and own != columns:
                raise UserError(f"{path}: other columns or classes than the files before it")
            columns = own
            found.setdefault(of_split, []).extend(_rows(path, parquet, own, of_split))
    assert columns
    highest = max(row[2] for rows in found.values() for row in rows)
    wnids = ((label, wnid) for rows in found.values() for _, _, label, wnid in rows)
    classes = numbered_classes(wnids, columns.names, max(highest + 1, len(columns.names)))
    opener = partial(open_parquet, column=columns.image)
    splits = {of_split: Images.of(_unique_keys(rows), opener) for of_split, rows in found.items()}
    digest = hashlib.sha256(json.dumps([columns.image, columns.label]).encode())
    for images in splits.values():
        digest.update(images.digest().encode())
    options = {"image_key": image_key, "label_key": label_key, "split": split}
    others = Counter(
        path.name
        for path in (source.rglob("*") if source.is_dir() else ())
        if path.is_file() and path.suffix != ".parquet"
    )
    return Listing(
        classes,
        splits,
        {"kind": "parquet", "fingerprint": digest.hexdigest(), **options},
        left_out_note(others),
        {"source": str(source.absolute())},
    )


@contextmanager
def open_parquet(file: str, column: str) -> Iterator[Read]:
    """Open a Parquet file to read images by their row, which costs least in rising order."""
    with _opened(Path(file)) as parquet:
        starts = [0]
        for group in range(parquet.num_row_groups):
            starts.append(starts[-1] + parquet.metadata.row_group(group).num_rows)
        position, batches, batch = -1, iter(()), pa.array([], pa.binary())

        def read(row: int, size: int) -> bytes:
            nonlocal position, batches, batch
            if not position <= row < starts[bisect_right(starts, max(position, 0))] or position < 0:
                group = bisect_right(starts, row) - 1
                position, batch = starts[group], pa.array([], pa.binary())
                batches = parquet.iter_batches(
                    _ROWS_AT_ONCE, row_groups=[group], columns=[column], use_threads=False
                )
            while row >= position + len(batch):
                position += len(batch)
                batch = _bytes(next(batches).column(0))
            return batch[row - position].as_py() or b""

        yield read


def _files(source: Path, split: str | None) -> list[tuple[Path, str]]:
    paths = [source] if source.is_file() else sorted(source.rglob("*.parquet"))
    if not paths:
        raise UserError(f"{source}: no .parquet files are there")
    files = []
    for path in paths:
        words = [path.stem.replace("_", "-").replace(".", "-").split("-")[0], path.parent.name]
        found = split or next((known for word in words if (known := split_named(word))), None)
        if found is None:
            raise UserError(f"{path}: its name tells no split; say with --split which all are")
        files.append((path, found))
    return files


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with path.open("rb") as file:
            yield pq.ParquetFile(file, pre_buffer=False)
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: can't be read as Parquet ({reason}); download it again") from None


def _columns(
    path: Path, parquet: pq.ParquetFile, image_key: str | None, label_key: str | None
) -> _Columns:
    schema = parquet.schema_arrow
    images = [each.name for each in schema if _holds_bytes(each.type)]
    labels = [each.name for each in schema if pa.types.is_integer(each.type)]
    image = _chosen(path, "image", image_key, images, "image: {bytes, path}")
    label = _chosen(path, "label", label_key, labels, "label, the class's number")
    features: Any = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    try:
        names = features["info"]["features"][label]["names"]
    except (KeyError, TypeError):
        names = ()
    return _Columns(image, label, tuple(map(str, names)))


def _chosen(path: Path, usual: str, asked: str | None, fitting: list[str], what: str) -> str:
    if (asked or usual) in fitting:
        return asked or usual
    if asked is None and len(fitting) == 1:
        return fitting[0]
    fits = f"of its kind are {', '.join(fitting)}" if fitting else "it has none of its kind"
    raise UserError(f"{path}: no column {asked or what}; {fits}; choose by --{usual}-key")


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(each.name == "bytes" and _holds_bytes(each.type) for each in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _bytes(column: pa.Array) -> pa.Array:
    return column.field("bytes") if pa.types.is_struct(column.type) else column


def _rows(
    path: Path, parquet: pq.ParquetFile, columns: _Columns, split: str
) -> Iterator[tuple[str, Member, int, str | None]]:
    """Yield (key, place, label, WNID) of each row; its bytes are not read."""
    image = parquet.schema_arrow.field(columns.image).type
    has_paths = pa.types.is_struct(image) and image.get_field_index("path") >= 0
    leaf = f"{columns.image}.bytes" if pa.types.is_struct(image) else columns.image
    wanted = [columns.label, *([f"{columns.image}.path"] if has_paths else [])]
    row = 0
    for group in range(parquet.num_row_groups):
        table = parquet.read_row_group(group, wanted, use_threads=False)
        about = parquet.metadata.row_group(group)
        chunks = [about.column(each) for each in range(about.num_columns)]
        stored = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema == leaf)
        labels = table[columns.label].to_pylist()
        paths = (
            [each and each["path"] for each in table[columns.image].to_pylist()]
            if has_paths
            else [None] * len(labels)
        )
        for label, name in zip(labels, paths, strict=True):
            if label is None or label < -1:
                raise UserError(f"{path}, row {row}: its label is {label}; give numbers from 0")
            stem, wnid = official_stem(PurePosixPath(name or f"{split}-{row:07d}").stem)
            place = Member(stem, path, row, max(1, stored // len(labels)))
            yield stem, place, label, wnid
            row += 1


def _unique_keys(
    rows: list[tuple[str, Member, int, str | None]],
) -> Iterator[tuple[str, Member, int]]:
    taken: set[str] = set()
    for stem, place, label, _ in rows:
        key = image_key(stem, taken)
        taken.add(key)
        yield key, place, label
