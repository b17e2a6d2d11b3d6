"""The packed data set: written whole or not at all, read back byte for byte."""

import errno
import gc
import io
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from intact import is_intact
from PIL import Image

from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.packing import Sample, write_store
from pipeline.data.store.shards import is_key
from pipeline.data.store.store import Store
from pipeline.runtime.errors import UserError

CLASSES = [ImageClass(0, "cat"), ImageClass(1, "dog")]
SHARD_BYTES = 30_000
FULL = re.escape(os.strerror(errno.ENOSPC))


def encode(number: int, kind: str = "PNG", height: int = 5, width: int = 7) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def some_samples(count: int, first: int = 0) -> list[Sample]:
    return [
        Sample(f"{CLASSES[i % 2].name}/image-{i}", encode(i, height=3 + i % 4), i % 2, 3 + i % 4, 7)
        for i in range(first, first + count)
    ]


def write_some(folder: Path, **options: int) -> Store:
    splits = {"train": some_samples(30), "val": some_samples(7, first=30)}
    return write_store(
        folder, name="pets", classes=CLASSES, splits=splits, source={"kind": "test"}, **options
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return write_some(tmp_path / "pets", shard_bytes=SHARD_BYTES)


def test_what_is_written_is_read(store: Store) -> None:
    assert (store.name, store.classes, store.split_names) == (
        "pets",
        tuple(CLASSES),
        ("train", "val"),
    )
    assert store.source == {"kind": "test"}
    split, samples = store.split("train"), some_samples(30)
    assert len(split) == 30
    assert list(split.keys) == [sample.key for sample in samples]
    assert split.labels.tolist() == [sample.label for sample in samples]
    assert split.sizes.tolist() == [[sample.height, sample.width] for sample in samples]
    assert (split.labels.dtype, split.sizes.dtype) == (np.int64, np.int32)
    for i in np.random.default_rng(0).permutation(30):
        assert split.encoded(i).tobytes() == samples[i].data
    assert split.location(0) == "train-000000.tar: cat/image-0"
    assert split.location(29) == "train-000003.tar: dog/image-29"
    assert is_intact(store)


def test_a_few_images_of_a_split_are_evenly_spaced(store: Store) -> None:
    split, samples = store.split("train", at_most=4), some_samples(30)
    expected = [samples[i] for i in (0, 9, 19, 29)]
    assert list(split.keys) == [sample.key for sample in expected]
    assert [data.tobytes() for data in split.encoded_batch(range(4))] == [s.data for s in expected]
    assert split.labels.tolist() == [sample.label for sample in expected]
    assert split.sizes.tolist() == [[sample.height, sample.width] for sample in expected]
    assert split.location(3) == "train-000003.tar: dog/image-29"
    assert len(store.split("train", at_most=31)) == 30


def test_encoded_images_are_views_of_the_map(store: Store) -> None:
    split = store.split("train")
    first, second = split.encoded(0), split.encoded(1)
    assert type(first) is np.ndarray
    assert first.dtype == np.uint8
    assert first.base is second.base is not None
    assert not first.flags.writeable


def test_a_pickled_split_leaves_out_its_maps(store: Store) -> None:
    split = store.split("val")
    expected = split.encoded(3).tobytes()
    travelled = pickle.loads(pickle.dumps(split))  # noqa: S301
    assert travelled.encoded(3).tobytes() == expected
    big = write_big(store.folder.parent / "big").split("train")
    big.encoded(0)
    assert len(pickle.dumps(big)) < 100_000


def test_few_shards_are_open_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two splits have half of what the process may open.
    monkeypatch.setattr("resource.getrlimit", lambda kind: (8, 8))
    split, samples = store.split("train"), some_samples(30)
    read = split.encoded_batch(range(30))
    gc.collect()
    # What was handed out outlives its map's turn, and keeps it open for so long.
    assert [image.tobytes() for image in read] == [sample.data for sample in samples]
    assert num_open_shards(store.folder) == 4
    del read
    gc.collect()
    assert num_open_shards(store.folder) == 2


def num_open_shards(folder: Path) -> int:
    links = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(link.startswith(str(folder)) and link.endswith(".tar") for link in links)


def write_big(folder: Path) -> Store:
    sample = Sample("big", encode(0, "BMP", 400, 400), 0, 400, 400)
    return write_store(folder, name="big", classes=CLASSES, splits={"train": [sample]}, source={})


def read_by_webdataset(store: Store) -> list[dict[str, Any]]:
    urls = sorted(map(str, store.folder.glob("train-*.tar")))
    with warnings.catch_warnings():
        # WebDataset leaves the shards to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        read = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
        gc.collect()
    return read


def test_webdataset_reads_the_shards(store: Store) -> None:
    assert len(list(store.folder.glob("train-*.tar"))) > 1
    read = read_by_webdataset(store)
    samples = some_samples(30)
    assert [sample["__key__"] for sample in read] == [sample.key for sample in samples]
    assert [sample["png"] for sample in read] == [sample.data for sample in samples]
    assert [int(sample["cls"]) for sample in read] == [sample.label for sample in samples]


def test_shards_are_plain_tars_of_bounded_size(store: Store) -> None:
    for path in store.folder.glob("*.tar"):
        assert path.stat().st_size <= SHARD_BYTES
        with tarfile.open(path) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
                assert not member.pax_headers
        subprocess.run(["tar", "-tf", path], check=True, stdout=subprocess.DEVNULL)


def test_two_writes_make_the_same_bytes(tmp_path: Path) -> None:
    first, second = write_some(tmp_path / "first"), write_some(tmp_path / "second")
    for path in first.folder.iterdir():
        assert path.read_bytes() == (second.folder / path.name).read_bytes(), path.name


def test_the_digest_covers_the_images_and_not_their_division_into_shards(
    store: Store, tmp_path: Path
) -> None:
    assert write_some(tmp_path / "one-shard").digest == store.digest

    def digest_with(name: str, change: Sample) -> str:
        splits = {"train": [*some_samples(29), change], "val": some_samples(7, first=30)}
        folder = tmp_path / name
        return write_store(folder, name="pets", classes=CLASSES, splits=splits, source={}).digest

    last = some_samples(1, first=29)[0]
    changed = last.data[:-1] + bytes([last.data[-1] ^ 1])
    assert digest_with("same", last) == store.digest
    assert digest_with("key", Sample("x", last.data, 1, last.height, 7)) != store.digest
    assert digest_with("label", Sample(last.key, last.data, 0, last.height, 7)) != store.digest
    assert digest_with("data", Sample(last.key, changed, 1, last.height, 7)) != store.digest


@pytest.mark.parametrize(
    ("kind", "extension"),
    [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("BMP", "bmp"), ("TIFF", "tif")],
)
def test_extension_is_what_the_bytes_are(tmp_path: Path, kind: str, extension: str) -> None:
    sample = Sample("named.JPEG".partition(".")[0], encode(0, kind), 0, 5, 7)
    write_store(tmp_path / "s", name="s", classes=CLASSES, splits={"train": [sample]}, source={})
    with tarfile.open(tmp_path / "s" / "train-000000.tar") as tar:
        assert tar.getnames() == [f"named.{extension}", "named.cls"]


def test_quarantined_images_are_listed_and_not_served(tmp_path: Path) -> None:
    bad = Sample("cat/bad", b"", 0, 0, 0, "zero bytes")
    samples = [*some_samples(2), bad, *some_samples(2, first=2)]
    store = write_store(
        tmp_path / "s", name="s", classes=CLASSES, splits={"train": samples}, source={}
    )
    split = store.split("train")
    assert "cat/bad" not in split.keys
    assert split.encoded(2).tobytes() == encode(2, height=5)
    assert (len(split), store.split_manifest("train").num_quarantined, store.num_quarantined) == (
        4,
        1,
        1,
    )
    rows = pq.read_table(tmp_path / "s" / "train.parquet").to_pylist()
    assert rows[2] == {
        "key": "cat/bad",
        "label": 0,
        "shard": None,
        "offset": None,
        "size": 0,
        "height": 0,
        "width": 0,
        "status": "zero bytes",
        "treatment": "",
        "sha256": None,
    }


@pytest.mark.parametrize(
    "sample",
    [
        Sample("a.b", encode(0), 0, 5, 7),
        Sample("../a", encode(0), 0, 5, 7),
        Sample("/a", encode(0), 0, 5, 7),
        Sample("__a__/b", encode(0), 0, 5, 7),
        Sample("", encode(0), 0, 5, 7),
        Sample("a\nb", encode(0), 0, 5, 7),
        Sample("a\udcff", encode(0), 0, 5, 7),
        Sample("cat/image-0", encode(0), 0, 5, 7),
        Sample("a", encode(0), 2, 5, 7),
        Sample("a", encode(0), -2, 5, 7),
        Sample("a", b"GIF89a", 0, 5, 7),
        Sample("a", b"", 0, 5, 7),
        Sample("a", encode(0), 0, 5, 7, "quarantined with its bytes"),
    ],
    ids=repr,
)
def test_invalid_samples_are_refused(tmp_path: Path, sample: Sample) -> None:
    splits = {"train": [*some_samples(1), sample]}
    with pytest.raises(ValueError, match="a"):
        write_store(tmp_path / "s", name="s", classes=CLASSES, splits=splits, source={})
    assert list(tmp_path.iterdir()) == []


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    splits = {"train": some_samples(1), "val": [Sample("bad", b"", 0, 0, 0, "zero bytes")]}
    with pytest.raises(UserError, match="split 'val' would have no images"):
        write_store(tmp_path / "s", name="s", classes=CLASSES, splits=splits, source={})
    assert list(tmp_path.iterdir()) == []


NAMES = st.text(min_size=1, max_size=150).filter(is_key)


@settings(max_examples=20, deadline=None)
@given(
    keys=st.lists(NAMES, min_size=1, max_size=6, unique=True),
    sizes=st.lists(st.integers(1, 1500), min_size=6, max_size=6),
    shard_bytes=st.sampled_from([1, 20_000, 2**20]),
)
def test_odd_keys_and_sizes_come_back(keys: list[str], sizes: list[int], shard_bytes: int) -> None:
    samples = [
        Sample(key, b"\xff\xd8\xff" + bytes(size), i % 2, size, 1)
        for i, (key, size) in enumerate(zip(keys, sizes, strict=False))
    ]
    with tempfile.TemporaryDirectory() as folder:
        store = write_store(
            Path(folder) / "s",
            name="s",
            classes=CLASSES,
            splits={"train": samples},
            source={},
            shard_bytes=shard_bytes,
        )
        split = store.split("train")
        assert list(split.keys) == keys
        assert [split.encoded(i).tobytes() for i in range(len(split))] == [s.data for s in samples]
        read = read_by_webdataset(store)
        assert [sample["__key__"] for sample in read] == keys
        assert [sample["jpg"] for sample in read] == [sample.data for sample in samples]


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def set_version(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))


@pytest.mark.parametrize(
    ("damaged", "damage", "message"),
    [
        ("", shutil.rmtree, "no such data set; run `ilsvrc prepare"),
        ("dataset.json", Path.unlink, "not a packed data set"),
        ("dataset.json", truncate, None),
        ("dataset.json", lambda path: os.truncate(path, 50), "dataset.json: can't be read"),
        ("dataset.json", lambda path: path.write_text("[]"), "dataset.json: can't be read"),
        ("dataset.json", lambda path: path.write_text('{"format_version": 2}'), "is missing"),
        ("dataset.json", set_version, "format version 99, but this program reads 2"),
        ("train-000001.tar", Path.unlink, "train-000001.tar: missing; remove .* again"),
        ("train-000001.tar", truncate, r"train-000001.tar: [\d,]+ bytes where [\d,]+ were"),
        ("val.parquet", Path.unlink, "val.parquet: missing"),
        ("val.parquet", truncate, r"val.parquet: [\d,]+ bytes where"),
    ],
)
def test_a_damaged_store_does_not_open(
    store: Store, damaged: str, damage: object, message: str | None
) -> None:
    damage(store.folder / damaged)  # type: ignore[operator]
    if message is None:  # only the last newline is gone
        Store.open(store.folder)
        return
    with pytest.raises(UserError, match=message):
        Store.open(store.folder)


def test_an_index_of_the_right_size_and_wrong_bytes_is_refused(store: Store) -> None:
    path = store.folder / "val.parquet"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError, match=r"val.parquet: can't be read .* run `ilsvrc prepare"):
        Store.open(store.folder).split("val")


def test_an_index_with_a_changed_byte_is_refused_or_read_whole(store: Store) -> None:
    path = store.folder / "val.parquet"
    whole = path.read_bytes()
    num_refused = 0
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 128]) + whole[place + 1 :])
        try:
            split = store.split("val")
        except UserError:
            num_refused += 1
        else:
            assert len(split.keys) == 7
    assert num_refused > 100


def test_the_index_of_another_data_set_is_refused(store: Store) -> None:
    path = store.folder / "dataset.json"
    content = json.loads(path.read_text())
    content["splits"]["val"]["index"] = content["splits"]["train"]["index"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"train.parquet: doesn't fit dataset.json"):
        Store.open(store.folder).split("val")


READS_THE_INDEX = """
import os, sys
from pathlib import Path
import pipeline.data.store.store  # whose libraries start threads of their own
from pipeline.data.store.index import read_index, read_rows
path = Path(sys.argv[1])
before = len(os.listdir("/proc/self/task"))
read_index(path)
list(read_rows(path))
print(len(os.listdir("/proc/self/task")) - before)
"""


def test_reading_an_index_leaves_no_thread_that_could_outlive_the_interpreter(store: Store) -> None:
    command = [sys.executable, "-c", READS_THE_INDEX, store.folder / "val.parquet"]
    assert subprocess.check_output(command, text=True).strip() == "0"


def test_an_unknown_split_is_named_with_those_that_exist(store: Store) -> None:
    with pytest.raises(UserError, match="no split 'test'; there are: train, val"):
        store.split("test")


def test_what_exists_is_not_overwritten(store: Store) -> None:
    before = {path: path.read_bytes() for path in store.folder.iterdir()}
    with pytest.raises(UserError, match="exists already"):
        write_some(store.folder)
    assert {path: path.read_bytes() for path in store.folder.iterdir()} == before
    assert list(store.folder.parent.iterdir()) == [store.folder]


def test_a_failing_source_leaves_no_files(tmp_path: Path) -> None:
    def failing() -> Iterator[Sample]:
        yield from some_samples(3)
        raise OSError("the source broke")

    with pytest.raises(OSError, match="the source broke"):
        write_store(
            tmp_path / "s", name="s", classes=CLASSES, splits={"train": failing()}, source={}
        )
    assert list(tmp_path.iterdir()) == []


# Says each image; at the one that it is told to, it waits for a line.
WRITER = """
import sys
from pathlib import Path
from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.packing import Sample, write_store

def samples(split):
    for i in range(20):
        print(split, i, flush=True)
        if f"{split} {i}" == sys.argv[2]:
            sys.stdin.readline()
        yield Sample(f"image-{i}", b"\\xff\\xd8\\xff" + bytes(3000), 0, 1, 1)

splits = {"train": samples("train"), "val": samples("val")}
classes = [ImageClass(0, "cat")]
folder = Path(sys.argv[1])
write_store(folder, name="s", classes=classes, splits=splits, source={}, shard_bytes=9000)
print("done", flush=True)
"""


def start_writer(folder: Path, until: str) -> "subprocess.Popen[str]":
    """Start a writer in a process of its own; return when it waits at `until`."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, folder, until],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert writer.stdout is not None
    assert any(line.strip() == until for line in writer.stdout)
    return writer


def end(writer: "subprocess.Popen[str]", how: signal.Signals) -> None:
    writer.send_signal(how)
    writer.communicate(timeout=30)


@pytest.mark.parametrize("moment", ["train 0", "train 15", "val 19"])
def test_a_killed_writer_leaves_nothing_that_opens(tmp_path: Path, moment: str) -> None:
    folder = tmp_path / "s"
    end(start_writer(folder, moment), signal.SIGKILL)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".s.lock", ".s.partial"]
    with pytest.raises(UserError, match="no such data set"):
        Store.open(folder)
    assert is_intact(write_some(folder))
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03])
def test_a_kill_near_the_end_leaves_all_or_nothing(tmp_path: Path, delay: float) -> None:
    folder = tmp_path / "s"
    writer = start_writer(folder, "val 19")
    assert writer.stdin is not None
    print(file=writer.stdin, flush=True)
    time.sleep(delay)
    end(writer, signal.SIGKILL)
    if folder.exists():
        assert is_intact(Store.open(folder))
    else:
        assert is_intact(write_some(folder))


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    writer = start_writer(folder, "train 3")
    with pytest.raises(UserError, match="another process is writing it; wait"):
        write_some(folder)
    output, _ = writer.communicate(timeout=30)
    assert "done" in output
    assert is_intact(Store.open(folder))
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("small_disk", [100], indirect=True)
@pytest.mark.parametrize("image_bytes", [1, 500, 30_000])
def test_a_full_disk_is_a_one_line_error(small_disk: Path, image_bytes: int) -> None:
    image = b"\xff\xd8\xff" + bytes(image_bytes)
    samples = (Sample(f"image-{i}", image, 0, 1, 1) for i in range(200_000))
    with pytest.raises(UserError, match=rf"can't be written \({FULL}\); make room"):
        write_store(
            small_disk / "s", name="s", classes=CLASSES, splits={"train": samples}, source={}
        )
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("small_disk", [100], indirect=True)
def test_a_disk_that_the_index_fills_is_a_one_line_error(small_disk: Path) -> None:
    samples = (
        Sample(os.urandom(40).hex(), b"", 0, 0, 0, os.urandom(40).hex()) for _ in range(5000)
    )
    with pytest.raises(UserError, match=rf"can't be written \({FULL}\)"):
        write_store(
            small_disk / "s", name="s", classes=CLASSES, splits={"train": samples}, source={}
        )
    assert list(small_disk.iterdir()) == []


def test_a_read_only_disk_is_a_one_line_error(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    reason = re.escape(os.strerror(errno.EROFS))
    with pytest.raises(UserError, match=rf"can't be written \({reason}\); choose"):
        write_some(small_disk / "s")


def test_a_target_below_a_file_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"can't be written \(.*\); choose a folder"):
        write_some(tmp_path / "file" / "s")
