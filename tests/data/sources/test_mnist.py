"""Small files in MNIST's format: packed exactly, each fault a one-line error."""

import errno
import gzip
import hashlib
import io
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli.commands import app
from pipeline.data.sources.mnist import MNIST, KnownDigits, read_digits, read_idx
from pipeline.data.sources.prepare import Prepared, prepare_mnist
from pipeline.data.store.store import Store
from pipeline.runtime.errors import UserError

COUNT = 200
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28), np.uint8)
LABELS = np.arange(COUNT, dtype=np.uint8) % 10


def idx(array: np.ndarray) -> bytes:
    magic = {1: 0x801, 3: 0x803}[array.ndim]
    return struct.pack(f">I{array.ndim}I", magic, *array.shape) + array.tobytes()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "images").write_bytes(idx(PIXELS))
    (tmp_path / "labels.gz").write_bytes(gzip.compress(idx(LABELS)))
    (tmp_path / "test-images.gz").write_bytes(gzip.compress(idx(PIXELS[:30])))
    (tmp_path / "test-labels").write_bytes(idx(LABELS[:30]))
    return tmp_path


def prepare(files: Path, *, with_test: bool = False, val_share: float = 0.2) -> Prepared:
    return prepare_mnist(
        files / "images",
        files / "labels.gz",
        files / "test-images.gz" if with_test else None,
        files / "test-labels" if with_test else None,
        files / "data",
        val_share,
        lambda done, total: None,
    )


def decoded(store: Store, split_name: str) -> np.ndarray:
    split = store.split(split_name)
    encoded = [io.BytesIO(split.encoded(i).tobytes()) for i in range(len(split))]
    return np.stack([np.asarray(Image.open(file)) for file in encoded])


def test_the_command_centres_digits_in_fields_of_32(files: Path) -> None:
    arguments = ["--images", "images", "--labels", "labels.gz", "--to", "data"]
    arguments += ["--test-images", "test-images.gz", "--test-labels", "test-labels"]
    paths = {path.name: str(path) for path in files.iterdir()} | {"data": str(files / "data")}
    done = CliRunner().invoke(app, ["prepare", "mnist", *(paths.get(a, a) for a in arguments)])
    assert done.exit_code == 0, done.output
    assert "data: 200 train, 30 test images, 10 classes" in done.output
    store = Store.open(files / "data")
    for name, count in (("train", 200), ("test", 30)):
        split = store.split(name)
        assert split.keys[:2] == (f"{name}-00000", f"{name}-00001")
        assert split.labels.tolist() == LABELS[:count].tolist()
        expected = np.pad(PIXELS[:count], ((0, 0), (2, 2), (2, 2)))
        np.testing.assert_array_equal(decoded(store, name), expected, strict=True)
    assert store.source["padded_to"] == 32


def md5(*arrays: np.ndarray) -> tuple[str, ...]:
    return tuple(hashlib.md5(idx(array)).hexdigest() for array in arrays)


@pytest.mark.parametrize(
    ("test_pixels", "expected"), [(PIXELS[:30], "mnist"), (PIXELS[1:31], "mnist-unverified")]
)
def test_only_known_files_are_called_mnist(
    test_pixels: np.ndarray, expected: str, files: Path
) -> None:
    """Fashion-MNIST's files have the same format, names and counts."""
    (files / "test-images").write_bytes(idx(test_pixels))
    known = KnownDigits(train=md5(PIXELS, LABELS), test=md5(PIXELS[:30], LABELS[:30]))
    prepared = prepare_mnist(
        files / "images", files / "labels.gz", files / "test-images", files / "test-labels",
        files / "mnist", 0.1, lambda done, total: None, known=known,
    )  # fmt: skip
    assert prepared.store.name == expected
    assert len(prepared.notes) == (expected != "mnist")


def test_the_md5_sums_are_of_the_unpacked_files(files: Path) -> None:
    assert read_digits(files / "images", files / "labels.gz").md5 == md5(PIXELS, LABELS)
    assert MNIST.test[1] == "27ae3e4e09519cfbb04c329615203637"


def test_without_test_files_a_share_of_each_class_is_held_out(files: Path) -> None:
    store = prepare(files).store
    assert store.split_names == ("train", "val")
    train, val = store.split("train"), store.split("val")
    assert sorted(train.keys + val.keys) == [f"train-{i:05d}" for i in range(COUNT)]
    assert not set(train.keys) & set(val.keys)
    assert np.bincount(val.labels).min() >= 1
    assert 20 <= len(val) <= 60
    for split in (train, val):
        numbers = [int(key[-5:]) for key in split.keys]
        assert split.labels.tolist() == LABELS[numbers].tolist()
        np.testing.assert_array_equal(decoded(store, split.name)[:, 2:-2, 2:-2], PIXELS[numbers])


def test_the_same_digits_gzipped_are_there_already(files: Path) -> None:
    prepare(files)
    (files / "images").write_bytes(gzip.compress((files / "images").read_bytes()))
    assert prepare(files).already_there
    with pytest.raises(UserError, match="of another source or other options"):
        prepare(files, val_share=0.3)
    with pytest.raises(UserError, match="of another source or other options"):
        prepare(files, with_test=True)


def header(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("images", lambda data: data[:-1], "only 156,799 bytes of images where .* says 156,800"),
        ("images", lambda data: data + b"\0", "more bytes of images where .* says 156,800"),
        ("images", lambda data: data[:9], "ends within its header"),
        ("images", lambda data: b"", r"not an IDX file of images \(begins with 0x00000000\)"),
        ("images", lambda data: b"\x89PNG" + data[4:], r"not an IDX file .* 0x89504e47"),
        ("images", lambda data: idx(LABELS), "an IDX file of labels, not of images; give the oth"),
        ("images", lambda data: idx(PIXELS[:, :20, :20]), "images of 20×20; MNIST's are 28×28"),
        ("images", lambda data: idx(PIXELS[:0]), "promises 0×28×28 bytes, which is not MNIST"),
        ("images", lambda data: header(0x803, 2**31, 28, 28), "promises 2147483648×28×28"),
        ("images", lambda data: header(0x803, 9, 2**31, 28), "promises 9×2147483648×28"),
        ("images", lambda data: gzip.compress(data)[:-900], "a damaged gzip file"),
        ("images", lambda data: gzip.compress(data)[:99] + bytes(999), "a damaged gzip file"),
        ("labels.gz", lambda data: idx(PIXELS), "an IDX file of images, not of labels"),
        ("labels.gz", lambda data: idx(LABELS[1:]), "199 labels for 200 images in .*/images; give"),
        ("labels.gz", lambda data: idx(np.where(LABELS == 7, 10, LABELS).astype(np.uint8)),
         "label 10 of image 7; MNIST's are 0 to 9"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named(
    files: Path, name: str, change: Callable[[bytes], bytes], message: str
) -> None:
    path = files / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=rf"{name}: .*{message}"):
        prepare(files)
    assert not (files / "data").exists()


def test_a_missing_file_is_named(files: Path) -> None:
    (files / "images").unlink()
    reason = re.escape(os.strerror(errno.ENOENT))
    with pytest.raises(UserError, match=rf"images: can't be read \({reason}\)"):
        prepare(files)


def test_a_gzip_that_unpacks_without_end_is_read_no_further_than_promised(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(idx(LABELS) + bytes(50_000_000)))
    with pytest.raises(UserError, match="more bytes of labels where its header says 200"):
        read_idx(path, 1)


def test_contradictory_options_are_refused(files: Path) -> None:
    with pytest.raises(UserError, match=r"--val-share 1\.5: must be between 0 and 1"):
        prepare(files, val_share=1.5)
    images, labels = files / "images", files / "labels.gz"
    with pytest.raises(UserError, match="--test-images and --test-labels belong together"):
        prepare_mnist(images, labels, images, None, files / "data", 0.1, lambda done, total: None)
