"""WebDataset's shards as a source: changes are noticed, unexpected members refused."""

import os
from pathlib import Path

import pytest
from small_ilsvrc2012 import hostile, jpeg, photographs, write_tar

from pipeline.data.sources.prepare import prepare_webdataset
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
