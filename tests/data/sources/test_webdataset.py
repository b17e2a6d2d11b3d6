"""WebDataset's shards as a source: changes are noticed, unexpected members refused."""

import gzip
import os
import re
from pathlib import Path

import pytest
from small_ilsvrc2012 import hostile, jpeg, photographs, write_tar

from pipeline.data.sources.prepare import prepare_webdataset
from pipeline.data.sources.webdataset import list_webdataset
from pipeline.data.store.parallel_packing import Listing
from pipeline.runtime.errors import UserError


def nothing(done: int, total: int) -> None:
    pass


def write_shard(folder: Path, split: str, label: int, image: bytes) -> None:
    folder.mkdir(exist_ok=True)
    write_tar(
        folder / f"{split}-000000.tar",
        {"a.jpg": image, "a.cls": b"0", "b.jpg": image, "b.cls": str(label).encode()},
    )


@pytest.mark.parametrize("change", ["labels", "images"])
def test_shards_of_the_same_sizes_and_other_contents_are_another_source(
    change: str, tmp_path: Path
) -> None:
    one, other = (jpeg(photo) for photo in photographs(2))
    size = max(len(one), len(other))
    one, other = one.ljust(size, b"\0"), other.ljust(size, b"\0")
    packing = {"name": "x", "num_workers": 0, "progress": nothing}
    source, to = tmp_path / "in", tmp_path / "out"
    for split in ("train", "val"):
        write_shard(source, split, 1, one)
    prepare_webdataset(source, to, **packing)
    assert prepare_webdataset(source, to, **packing).already_there
    before = (source / "val-000000.tar").stat()
    if change == "labels":
        write_shard(source, "val", 2, one)
        os.utime(source / "val-000000.tar", ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        write_shard(source, "val", 1, other)
    assert (source / "val-000000.tar").stat().st_size == before.st_size
    with pytest.raises(UserError, match="of another source or other options"):
        prepare_webdataset(source, to, **packing)


class StopError(Exception):
    pass


def test_an_interrupted_packing_is_not_continued_with_other_shards(tmp_path: Path) -> None:
    def stop_after_train(done: int, total: int) -> None:
        if done:
            raise StopError

    image = jpeg(next(photographs(1)))
    for split in ("train", "val"):
        write_shard(tmp_path / "in", split, 1, image)
    with pytest.raises(StopError):
        prepare_webdataset(
            tmp_path / "in", tmp_path / "out", "x", num_workers=0, progress=stop_after_train
        )
    for split in ("train", "val"):
        write_shard(tmp_path / "in", split, 2, image)
    store = prepare_webdataset(
        tmp_path / "in", tmp_path / "out", "x", num_workers=0, progress=nothing
    ).store
    for split in ("train", "val"):
        assert store.split(split).labels.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.jpg": b"x"}, "a.cls is missing"),
        ({"a.jpg": b"x", "a.cls": b"cat"}, "a.cls is missing or no class's number"),
        ({"a.jpg": b"x", "a.cls": b"99999999"}, "a.cls is missing or no class's number"),
        ({"../a.jpg": b"x", "../a.cls": b"1"}, "has no place there"),
        ({"/a.jpg": b"x", "/a.cls": b"1"}, "has no place there"),
        ({"a.txt": b"x"}, "holds no images"),
    ],
)
def test_shards_that_are_not_as_expected_are_refused(
    members: dict[str, bytes], message: str, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in" / "train-000000.tar", members)
    with pytest.raises(UserError, match=message):
        prepare_webdataset(
            tmp_path / "in", tmp_path / "out", "out", num_workers=0, progress=nothing
        )
    assert not (tmp_path / "out").exists()


def test_links_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no shards named"):
        prepare_webdataset(tmp_path, tmp_path / "out", "out", num_workers=0, progress=nothing)
    (tmp_path / "train-000000.tar").write_bytes(hostile("a.jpg", b"2"))
    with pytest.raises(UserError, match="is no plain file"):
        prepare_webdataset(tmp_path, tmp_path / "out", "out", num_workers=0, progress=nothing)


def shards(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        image = jpeg(next(photographs(1, seed=number)))
        members = {f"{number}.jpg": image, f"{number}.cls": b"0"}
        members |= {f"{number}b.jpg": image, f"{number}b.cls": b"1"}
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tar(path, members)
    return folder


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("imagenet-train-000000.tar", "imagenet-val-000000.tar"), ["train", "val"]),
        (("imagenet1k-train-0000.tar", "imagenet1k-validation-00.tar"), ["train", "val"]),
        (("imagenet_train_000.tar", "imagenet_val_000.tar"), ["train", "val"]),
        (("train.tar", "valid.tar"), ["train", "val"]),
        (("train/00000.tar", "test/00000.tar"), ["test", "train"]),
        (("train-000000.tar", "minival-000000.tar", "._train-000001.tar"), ["minival", "train"]),
    ],
)
def test_splits_are_told_by_the_names_of_shards(
    names: tuple[str, ...], splits: list[str], tmp_path: Path
) -> None:
    assert sorted(list_webdataset(shards(tmp_path, *names)).splits) == splits


def test_shards_of_no_splits_name_need_one(tmp_path: Path) -> None:
    shards(tmp_path, "00000.tar", "00001.tar")
    with pytest.raises(UserError, match=r"00000.tar: its name tells no split.*--split"):
        list_webdataset(tmp_path)
    listing = list_webdataset(tmp_path, split="train")
    assert listing.splits["train"].keys == ["0", "0b", "1", "1b"]


@pytest.mark.parametrize("name", ["train-000000.tar.gz", "train-000000.tgz", "train-000000.tar"])
def test_gzip_is_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b"a tar"))
    with pytest.raises(UserError, match=rf"{re.escape(name)}: .*gzip.*gunzip it"):
        list_webdataset(tmp_path)


JPEG = jpeg(next(photographs(1)))


def listed(folder: Path, *shards: dict[str, bytes], **options: str) -> Listing:
    folder.mkdir(exist_ok=True)
    for number, members in enumerate(shards):
        write_tar(folder / f"train-{number:06d}.tar", members)
    return list_webdataset(folder, **options)


def keys_and_labels(listing: Listing) -> dict[str, int]:
    train = listing.splits["train"]
    return dict(zip(train.keys, train.labels.tolist(), strict=True))


def test_every_image_with_a_label_is_packed_whatever_its_name(tmp_path: Path) -> None:
    """Of dots in keys, WebDataset's own reader makes extensions, and two images one sample."""
    members = {
        "./a.JPEG": JPEG, "./a.CLS": b"1\n", "photo.v0.jpg": JPEG, "photo.v0.cls": b" 0 ",
        "photo.v1.jpg": JPEG, "photo.v1.cls": b"1", "late.jpg": JPEG, "__MACOSX/._a.jpg": b"x",
        "._a.jpg": b"x", "a.seg.png": JPEG, "a.json": b"{}", "late.cls": b"0", "sub/b.jpg": JPEG,
        "sub/b.cls": b"1", "README": b"read",
    }  # fmt: skip
    listing = listed(tmp_path, members)
    expected = {"a": 1, "photo_v0": 0, "photo_v1": 1, "late": 0, "sub/b": 1}
    assert keys_and_labels(listing) == expected
    assert listing.notes == ("left out: ._* (2), *.json, *.png, README",)


def test_a_key_of_two_shards_is_numbered(tmp_path: Path) -> None:
    shard = {"a.jpg": JPEG, "a.cls": b"0", "b.jpg": JPEG, "b.cls": b"1"}
    listing = listed(tmp_path, shard, {"a.jpg": JPEG, "a.cls": b"1"})
    assert keys_and_labels(listing) == {"a": 0, "b": 1, "a_2": 1}


@pytest.mark.parametrize(
    ("extension", "texts", "label_key", "classes", "labels"),
    [
        ("json", ['{"label": 1}', '{"label": 0}'], "label", ["0", "1"], [1, 0]),
        ("json", ['{"wnid": "n2"}', '{"wnid": "n1"}'], "json.wnid", ["n1", "n2"], [1, 0]),
        ("txt", ["3\n", "0"], "txt", ["0", "1", "2", "3"], [3, 0]),
        ("txt", ["dog", "cat"], "txt", ["cat", "dog"], [1, 0]),
    ],
)
def test_labels_are_read_by_their_key(
    extension: str,
    texts: list[str],
    label_key: str,
    classes: list[str],
    labels: list[int],
    tmp_path: Path,
) -> None:
    members = {f"{k}.jpg": JPEG for k in range(2)}
    members |= {f"{k}.{extension}": text.encode() for k, text in enumerate(texts)}
    with pytest.raises(UserError, match=rf"0.cls is missing .*KEY.{extension}, give --label-key"):
        listed(tmp_path, members)
    listing = listed(tmp_path, members, label_key=label_key)
    assert [each.name for each in listing.classes] == classes
    assert listing.splits["train"].labels.tolist() == labels


def test_numbers_without_images_are_said(tmp_path: Path) -> None:
    listing = listed(tmp_path, {"a.jpg": JPEG, "a.cls": b"0", "b.jpg": JPEG, "b.cls": b"999"})
    assert listing.notes == ("998 of 1,000 classes have no images",)


@pytest.mark.parametrize(
    ("members", "options", "message"),
    [
        ({"a.gif": b"GIF8", "a.cls": b"0"}, {}, r"a.cls labels no image; there is gif; only jpg"),
        ({"a.jpg": JPEG, "a.cls": b"1.0"}, {}, r"a.cls is missing or no class's number"),
        ({"a.jpg": JPEG, "a.json": b"{}"}, {"label_key": "label"}, r"a.json has no label \(KeyEr"),
        ({"a.jpg": JPEG, "a.json": b"{"}, {"label_key": "label"}, r"a.json has no label"),
    ],
)
def test_samples_without_a_label_or_an_image_are_refused(
    members: dict[str, bytes], options: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        listed(tmp_path, members, **options)
