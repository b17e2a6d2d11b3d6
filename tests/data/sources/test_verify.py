"""Verifying a data set finds its damage; repairing packs damaged shards again."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from intact import is_intact
from small_ilsvrc2012 import (
    EDITION,
    SORTED,
    jpeg,
    photographs,
    train_images,
    write_official,
    write_train,
)
from typer.testing import CliRunner

from pipeline.cli.commands import app
from pipeline.data.sources.ilsvrc2012 import Sources, Subset
from pipeline.data.sources.prepare import prepare_folder, prepare_ilsvrc2012, prepare_webdataset
from pipeline.data.sources.repair import repair
from pipeline.data.sources.verify import VerifyReport, verify
from pipeline.data.store.store import Store
from pipeline.runtime.errors import UserError


def nothing(done: int, total: int) -> None:
    pass


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return write_official(tmp_path / "archives")


@pytest.fixture
def store(sources: Sources, tmp_path: Path) -> Store:
    return packed(sources, tmp_path / "data")


def packed(sources: Sources, to: Path) -> Store:
    return prepare_ilsvrc2012(
        sources, to, checking=None, num_workers=0, progress=nothing, edition=EDITION,
        shard_bytes=20_000,
    ).store  # fmt: skip


def verified(store: Store, sample: int | None = None) -> VerifyReport:
    return verify(store, sample, nothing)


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_a_whole_data_set_is_described(store: Store) -> None:
    calls: list[tuple[int, int]] = []
    found = verify(store, 3, lambda *numbers: calls.append(numbers))
    assert found.is_intact
    assert calls[-1][0] == calls[-1][1]
    train, val, test = found.splits
    assert [split.num_images for split in found.splits] == [23, 8, 6]
    assert [split.num_decoded for split in found.splits] == [3, 3, 3]
    assert train.per_class.tolist() == [7, 5, 5, 6]
    assert val.per_class.tolist() == [2, 2, 2, 2]
    assert test.per_class.sum() == 0
    sizes = store.split("train").sizes
    assert train.shorter_sides.tolist() == sizes.min(axis=1).tolist()
    biggest = sizes.prod(axis=1).argmax()
    assert train.largest.endswith(store.split("train").keys[biggest])
    assert verified(store).splits[0].num_decoded == 23


def test_pillow_does_not_warn_of_broken_metadata(tmp_path: Path) -> None:
    """They aren't read here. A warning is an error in these tests."""
    broken = b"Exif\0\0II*\0\x08\0\0\0\x05\0"  # promises five entries, and ends
    for name, image in zip("aabb", photographs(4), strict=True):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{len(list(folder.iterdir()))}.jpg").write_bytes(jpeg(image, exif=broken))
    options = {"val_share": 0.5, "on_bad": "stop", "num_workers": 0, "progress": nothing}
    prepared = prepare_folder(tmp_path / "photos", tmp_path / "data", "photos", **options)
    assert verified(prepared.store).is_intact


def test_a_flipped_bit_is_found_and_its_image_named(store: Store) -> None:
    assert isinstance(store.folder, Path)
    split = store.split("train")
    i = 11
    data, name = split.encoded(i).tobytes(), split.location(i).split(":")[0]
    place = (store.folder / name).read_bytes().index(data)
    flip(store.folder / name, place + len(data) // 2)
    found = verified(Store.open(store.folder))
    assert not found.is_intact
    assert found.splits[0].problems == [
        f"{name}: its bytes have changed",
        f"{split.location(i)}: its bytes have changed",
    ]
    assert [each.num_problems for each in found.splits] == [2, 0, 0]


def test_nothing_in_a_changed_index_is_trusted(store: Store) -> None:
    assert isinstance(store.folder, Path)
    path = store.folder / "train.parquet"
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        flip(path, place)
        train, val, _ = verified(store, 3).splits
        assert train.problems == ["train.parquet: its bytes have changed"]
        assert (train.num_images, train.num_decoded, val.num_problems) == (0, 0, 0)
        path.write_bytes(whole)


def test_what_was_left_out_and_treated_is_counted(sources: Sources, tmp_path: Path) -> None:
    images = train_images()
    first, second, third, *_ = images[SORTED[0]]
    images[SORTED[0]][third] = jpeg(next(photographs(1)).convert("L"))
    images[SORTED[0]][first] = b""
    images[SORTED[0]][second] = jpeg(next(photographs(1)).convert("CMYK"))
    write_train(tmp_path / "train.tar", images)
    train = verified(packed(replace(sources, train=tmp_path / "train.tar"), tmp_path / "d")).splits[
        0
    ]
    assert train.left_out == {"zero bytes": 1}
    assert train.treated == {"CMYK to RGB, PNG": 1}
    assert train.modes == {"RGB": 21, "L": 1}
    assert (train.num_images, train.num_problems) == (22, 0)


def test_damaged_and_missing_shards_are_repaired(store: Store) -> None:
    folder = Path(str(store.folder))
    assert repair(folder, 0, nothing, EDITION) == []
    flip(folder / "train-000001.tar", 700)
    (folder / "val-000000.tar").unlink()
    kept = (folder / "train-000000.tar").stat().st_ino
    assert repair(folder, 0, nothing, EDITION) == ["train-000001.tar", "val-000000.tar"]
    assert is_intact(Store.open(folder))
    assert (folder / "train-000000.tar").stat().st_ino == kept
    assert not (folder / ".repair").exists()


def test_folders_and_webdataset_are_repaired_too(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number, photo in enumerate(photographs(4)):
            (tmp_path / "images" / name / f"{number}.jpg").write_bytes(jpeg(photo))
    to = tmp_path / "packed"
    prepare_folder(
        tmp_path / "images", to, "x", val_share=0.3, on_bad="stop", num_workers=0, progress=nothing
    )
    again = tmp_path / "again"
    prepare_webdataset(to, again, "x", num_workers=0, progress=nothing)
    for folder in (to, again):
        flip(folder / "train-000000.tar", 700)
        assert repair(folder, 0, nothing) == ["train-000000.tar"]
        assert is_intact(Store.open(folder))


def test_a_changed_source_repairs_nothing(store: Store, sources: Sources) -> None:
    folder = Path(str(store.folder))
    flip(folder / "train-000001.tar", 700)
    before = (folder / "train-000001.tar").read_bytes()
    images = train_images()
    write_train(sources.train, {wnid: dict(zip(each, reversed(each.values()), strict=True))
                                for wnid, each in images.items()})  # fmt: skip
    with pytest.raises(UserError, match="the source now gives other bytes"):
        repair(folder, 0, nothing, EDITION)
    assert (folder / "train-000001.tar").read_bytes() == before


def test_a_shard_that_the_source_no_longer_has_is_not_repaired(
    store: Store, tmp_path: Path
) -> None:
    source, to = Path(str(store.folder)), tmp_path / "again"
    prepare_webdataset(source, to, "x", num_workers=0, progress=nothing)
    for damaged in (to / "train-000000.tar", to / "val-000000.tar"):
        flip(damaged, 700)
    before = {path: path.read_bytes() for path in to.iterdir()}
    for shard in source.glob("val-*.tar"):
        shard.unlink()
    with pytest.raises(
        UserError, match=r"val-000000\.tar: can't be repaired, .* nothing more for it"
    ):
        repair(to, 0, nothing)
    assert {path: path.read_bytes() for path in to.iterdir()} == before


def test_a_damaged_index_and_other_data_sets_are_not_repaired(store: Store, data_dir: Path) -> None:
    folder, digits = Path(str(store.folder)), Path(str(store.folder)).with_name("digits")
    flip(folder / "val.parquet", 100)
    with pytest.raises(UserError, match="the index is damaged"):
        repair(folder, 0, nothing, EDITION)
    shutil.copytree(data_dir / "digits", digits)
    assert repair(digits, 0, nothing) == []
    flip(digits / "val-000000.tar", 700)
    with pytest.raises(UserError, match="was computed, from no files to go back to"):
        repair(digits, 0, nothing)


def test_a_url_is_not_repaired() -> None:
    place = "memory://nothing/here"
    refused = CliRunner().invoke(app, ["doctor", place, "--repair"])
    assert isinstance(refused.exception, UserError)
    assert f"{place}: only a folder on this machine can be repaired" in str(refused.exception)


def test_the_command_shows_a_table_and_fails_on_damage(sources: Sources, tmp_path: Path) -> None:
    subset = prepare_ilsvrc2012(
        replace(sources, test=None), tmp_path / "data", subset=Subset(3), checking=None,
        num_workers=0, progress=nothing,
    )  # fmt: skip
    folder = Path(str(subset.store.folder))
    intact = CliRunner().invoke(app, ["doctor", str(folder), "--all"])
    assert intact.exit_code == 0, intact.output
    assert "images a class: median" in intact.output
    flip(folder / "train-000000.tar", 700)
    damaged = CliRunner().invoke(app, ["doctor", str(folder)])
    assert damaged.exit_code == 1
    assert "wrong: train-000000.tar: its bytes have changed" in damaged.output
