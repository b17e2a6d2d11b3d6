"""Staging: a checked copy, made once, continued after a kill, never incomplete."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from intact import is_intact

from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.packing import Sample, write_store
from pipeline.data.store.stage import stage
from pipeline.data.store.store import Store
from pipeline.runtime.errors import UserError

SHARDS = 6
SHARD_BYTES = 300_000


@pytest.fixture
def source(tmp_path: Path) -> Store:
    data = [b"\xff\xd8\xff" + os.urandom(SHARD_BYTES) for _ in range(SHARDS)]
    samples = [Sample(f"image-{i}", image, 0, 8, 8) for i, image in enumerate(data)]
    return write_store(
        tmp_path / "packed" / "noise",
        name="noise",
        classes=[ImageClass(0, "noise")],
        splits={"train": samples},
        source={"kind": "test"},
        shard_bytes=SHARD_BYTES,
    )


def same_images(first: Store, second: Store) -> bool:
    ours, theirs = first.split("train"), second.split("train")
    return ours.keys == theirs.keys and all(
        ours.encoded(i).tobytes() == theirs.encoded(i).tobytes() for i in range(len(ours))
    )


def test_a_copy_is_the_data_set_and_is_made_once(source: Store, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    copy = stage(source.folder, tmp_path / "local", lambda *numbers: calls.append(numbers))
    assert copy.folder == tmp_path / "local" / f"noise-{source.digest[:12]}"
    assert same_images(copy, source)
    assert is_intact(copy)
    assert calls[0][0] == 0
    assert calls[-1][0] == calls[-1][1] > SHARDS * SHARD_BYTES
    made = copy.folder.stat().st_mtime_ns
    again = stage(source.folder, tmp_path / "local")
    assert again.folder.stat().st_mtime_ns == made


STAGE = """
import os, pathlib, signal, sys
from pipeline.data.store.stage import stage
source, to, limit = sys.argv[1:]
def progress(done, total):
    if done >= float(limit) * total:
        os.kill(os.getpid(), signal.SIGKILL)
stage(pathlib.Path(source), pathlib.Path(to), progress)
"""


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_a_killed_copy_is_continued(share: float, source: Store, tmp_path: Path) -> None:
    to = tmp_path / "local"
    command = [sys.executable, "-c", STAGE, str(source.folder), str(to), str(share)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    with pytest.raises(UserError):
        Store.open(to / f"noise-{source.digest[:12]}")
    (partial,) = to.glob(".noise-*.partial")
    whole = {path: path.stat().st_ino for path in partial.glob("train-*.tar")}
    assert len(whole) >= int(share * SHARDS) - 1
    assert same_images(stage(source.folder, to), source)
    kept = {path.stat().st_ino for path in (to / f"noise-{source.digest[:12]}").iterdir()}
    assert kept >= set(whole.values())


def test_two_processes_make_one_copy(source: Store, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STAGE, str(source.folder), str(tmp_path / "local"), "2"]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert same_images(stage(source.folder, tmp_path / "local"), source)


def test_a_torn_file_of_a_killed_copy_is_copied_again(source: Store, tmp_path: Path) -> None:
    partial = tmp_path / f".noise-{source.digest[:12]}.partial"
    partial.mkdir()
    (partial / "train-000000.tar").write_bytes(b"torn")
    assert same_images(stage(source.folder, tmp_path), source)


def test_changed_bytes_are_not_copied(source: Store, tmp_path: Path) -> None:
    shard = source.folder / "train-000002.tar"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"train-000002\.tar: its bytes have changed"):
        stage(source.folder, tmp_path / "local")
    assert not list((tmp_path / "local").glob("noise*"))


def test_a_missing_file_is_named(source: Store, tmp_path: Path) -> None:
    (source.folder / "train-000001.tar").unlink()
    with pytest.raises(UserError, match=r"train-000001\.tar: can't be read"):
        stage(source.folder, tmp_path / "local")


def test_a_small_disk_is_refused_before_a_byte_is_copied(source: Store, small_disk: Path) -> None:
    with pytest.raises(UserError, match=r"1 MB free, the data set needs another 2 MB"):
        stage(source.folder, small_disk)


def test_a_file_in_the_way_is_named(source: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"can't be written"):
        stage(source.folder, tmp_path / "file")
