"""ILSVRC-2012 in small: what is packed, what is refused, and that a kill changes nothing."""

import errno
import hashlib
import io
import os
import random
import signal
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from intact import is_intact
from PIL import Image
from small_ilsvrc2012 import (
    EDITION,
    NUM_TRAIN,
    SORTED,
    VAL_IDS,
    WNIDS,
    hostile,
    jpeg,
    photographs,
    train_images,
    write_official,
    write_tar,
    write_train,
)
from typer.testing import CliRunner

from pipeline.cli.commands import app
from pipeline.data.sources.ilsvrc2012 import ILSVRC2012, Sources, Subset, compare_checksums
from pipeline.data.sources.prepare import Prepared, prepare_ilsvrc2012
from pipeline.data.store.image_check import Shrinking
from pipeline.data.store.index import read_rows
from pipeline.data.store.store import Store
from pipeline.results.comparability import nearest
from pipeline.results.published import ResultKey
from pipeline.runtime.errors import InterruptedByUserError, UserError


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return write_official(tmp_path_factory.mktemp("official"))


def prepare(sources: Sources, to: Path, **options: Any) -> Prepared:
    settings = {
        "num_workers": 0,
        "progress": lambda done, total: None,
        "edition": EDITION,
        "checking": None,
    }
    return prepare_ilsvrc2012(sources, to, **{**settings, **options})


def test_every_image_is_packed_with_its_label(official: Sources, tmp_path: Path) -> None:
    store = prepare(official, tmp_path / "data").store
    assert [each.name for each in store.classes] == SORTED
    assert [each.ilsvrc2012_id for each in store.classes] == [WNIDS.index(w) + 1 for w in SORTED]
    assert store.classes[0].words == "thing n01440764, crane"
    assert store.source["edition"] == "ILSVRC-2012"

    expected = {
        name.removesuffix(".JPEG"): (data, SORTED.index(wnid))
        for wnid, images in train_images().items()
        for name, data in images.items()
    }
    train = store.split("train")
    assert len(train) == len(expected) == 23
    for i, key in enumerate(train.keys):
        assert (train.encoded(i).tobytes(), train.labels[i]) == expected[key]
    assert train.labels.tolist() == sorted(train.labels.tolist())

    val = store.split("val")
    assert val.keys == tuple(f"ILSVRC2012_val_{number:08d}" for number in range(1, 9))
    assert val.labels.tolist() == [SORTED.index(WNIDS[number - 1]) for number in VAL_IDS]
    test = store.split("test")
    assert test.keys[0] == "ILSVRC2012_test_00000001"
    assert set(test.labels.tolist()) == {-1}
    assert is_intact(store)


def digests(store: Store) -> dict[str, str]:
    return {file.name: file.sha256 for file in store._files}


def test_ray_packs_the_same_bytes(official: Sources, tmp_path: Path, ray_session: None) -> None:
    in_process = prepare(official, tmp_path / "in-process").store
    by_ray = prepare(official, tmp_path / "by-ray", num_workers=2).store
    assert digests(in_process) == digests(by_ray)
    assert in_process.digest == by_ray.digest


def test_folders_give_the_same_as_archives(official: Sources, tmp_path: Path) -> None:
    for wnid, images in train_images().items():
        (tmp_path / "train" / wnid).mkdir(parents=True)
        for name, data in images.items():
            (tmp_path / "train" / wnid / name).write_bytes(data)
    for path, folder in ((official.val, "val"), (official.devkit, ".")):
        with tarfile.open(path) as archive:
            archive.extractall(tmp_path / folder, filter="data")
    folders = Sources(tmp_path / "train", tmp_path / "val", tmp_path / "ILSVRC2012_devkit_t12")
    from_folders = prepare(folders, tmp_path / "a").store
    from_archives = prepare(replace(official, test=None), tmp_path / "b").store
    assert digests(from_folders) == digests(from_archives)


def test_the_validation_images_alone_are_ilsvrc2012_too(official: Sources, tmp_path: Path) -> None:
    """They and the devkit are all that testing others' networks needs."""
    alone = replace(official, train=None, test=None)
    sums = {
        name: hashlib.md5(path.read_bytes()).hexdigest() for name, path in alone.items().items()
    }
    edition = replace(EDITION, md5=sums)
    checked = prepare(alone, tmp_path / "a", edition=edition, checking=lambda done, total: None)
    whole = prepare(official, tmp_path / "b").store
    assert checked.store.name == "ilsvrc2012"
    assert checked.store.split_names == ("val",)
    assert checked.store.classes == whole.classes
    assert checked.store.split_manifest("val") == whole.split_manifest("val")


def test_a_subset_has_a_name_of_its_own(official: Sources, tmp_path: Path) -> None:
    chosen = replace(official, test=None)
    prepared = prepare(chosen, tmp_path / "data", subset=Subset(3, 2))
    assert prepared.store.source["edition"] == "a subset of ILSVRC-2012"
    sums = {
        name: hashlib.md5(path.read_bytes()).hexdigest() for name, path in chosen.items().items()
    }
    verified = {"edition": replace(EDITION, md5=sums), "checking": lambda done, total: None}
    names = [
        prepared.store.name,
        prepare(chosen, tmp_path / "mine").store.name,
        prepare(chosen, tmp_path / "ilsvrc2012").store.name,
        prepare(chosen, tmp_path / "whole", **verified).store.name,
    ]
    assert names == ["ilsvrc2012-subset", "mine", "ilsvrc2012-unverified", "ilsvrc2012"]
    assert prepare(chosen, tmp_path / "whole").already_there  # it was verified when it was packed
    keys = [ResultKey("resnet18", name, "val", "center-256-224") for name in names]
    assert [nearest(key) is None for key in keys] == [True, True, True, False]
    assert len(prepared.store.classes) == 3
    assert len(prepared.store.split("train")) == 6
    assert prepared.store.split("val").labels.max() == 2
    with pytest.raises(UserError, match="of another source or other options"):
        prepare(chosen, tmp_path / "data")
    assert prepare(chosen, tmp_path / "data", subset=Subset(3, 2)).already_there


# Packs an image each hundredth of a second, as many as it is told to, and then waits.
KILLED = """
import itertools, pathlib, sys, time
sys.path.insert(0, sys.argv[3])
from small_ilsvrc2012 import EDITION
from pipeline.data.sources.ilsvrc2012 import Sources
from pipeline.data.sources.prepare import prepare_ilsvrc2012
from pipeline.data.store.shards import ShardWriter

add = ShardWriter.add
left = itertools.count(int(sys.argv[4]), -1)
def add_slowly(*arguments):
    time.sleep(0.01 if next(left) else 1000)
    return add(*arguments)
ShardWriter.add = add_slowly

folder, to = map(pathlib.Path, sys.argv[1:3])
sources = Sources(*(folder / name for name in sys.argv[5:]))
def progress(done, total):
    print(done, total, flush=True)
prepare_ilsvrc2012(sources, to, checking=None, num_workers=0, progress=progress,
                   edition=EDITION, shard_bytes=20_000)
"""
SMALL = {"shard_bytes": 20_000}


@pytest.mark.parametrize("seed", range(4))
def test_a_kill_at_any_moment_changes_no_byte(seed: int, official: Sources, tmp_path: Path) -> None:
    undisturbed = prepare(official, tmp_path / "undisturbed", **SMALL).store
    assert len(digests(undisturbed)) > 10
    names = [path.name for path in official.items().values()]
    places = [official.train.parent, tmp_path / "data", Path(__file__).parents[1]]
    last = sum(EDITION.num_images.values()) - 1
    command = [sys.executable, "-c", KILLED, *map(str, places), str(last), *names]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline().startswith("0 ")  # it packs, at least until it is killed
        time.sleep(random.Random(seed).uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / ".data.partial").is_dir()
    again = prepare(official, tmp_path / "data", **SMALL).store
    assert digests(again) == digests(undisturbed)


KILLED_AT_THE_END = """
import os, shutil, signal
rmtree = shutil.rmtree
def remove_and_die(path, *arguments, **options):
    rmtree(path, *arguments, **options)
    if path.name == ".parts":
        os.kill(os.getpid(), signal.SIGKILL)
shutil.rmtree = remove_and_die
"""


def test_a_kill_after_the_last_step_leaves_a_complete_data_set(
    official: Sources, tmp_path: Path
) -> None:
    names = [path.name for path in official.items().values()]
    places = [official.train.parent, tmp_path / "data", Path(__file__).parents[1]]
    command = [sys.executable, "-c", KILLED_AT_THE_END + KILLED, *map(str, places), "-1", *names]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert prepare(official, tmp_path / "data", **SMALL).already_there


class StopError(Exception):
    pass


def stop_at_half(done: int, total: int) -> None:
    if done > total / 2:
        raise StopError


def test_complete_shards_of_an_interrupted_packing_are_kept(
    official: Sources, tmp_path: Path
) -> None:
    with pytest.raises(StopError):
        prepare(official, tmp_path / "data", progress=stop_at_half, **SMALL)
    kept = {path.name: path.stat().st_ino for path in (tmp_path / ".data.partial").glob("*.tar")}
    calls: list[int] = []
    prepare(official, tmp_path / "data", progress=lambda done, _: calls.append(done), **SMALL)
    assert calls[0] > 0
    now = {path.name: path.stat().st_ino for path in (tmp_path / "data").glob("*.tar")}
    assert now.items() >= kept.items()
    assert not (tmp_path / "data" / ".parts").exists()


def test_ctrl_c_says_how_to_continue(official: Sources, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedByUserError, match="data: stopped; the same command goes on"):
        prepare(official, tmp_path / "data", progress=interrupt, **SMALL)
    assert list((tmp_path / ".data.partial").glob("*.tar"))


def test_other_options_pack_from_the_start(official: Sources, tmp_path: Path) -> None:
    with pytest.raises(StopError):
        prepare(official, tmp_path / "data", progress=stop_at_half, **SMALL)
    smaller = prepare(official, tmp_path / "data", shrinking=Shrinking(50, 90), **SMALL).store
    undisturbed = prepare(official, tmp_path / "undisturbed", shrinking=Shrinking(50, 90), **SMALL)
    assert digests(smaller) == digests(undisturbed.store)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("small_disk", [100], indirect=True)
def test_a_packing_continues_after_a_full_disk(
    num_workers: int, official: Sources, small_disk: Path, tmp_path: Path, ray_session: None
) -> None:
    options = {**SMALL, "num_workers": num_workers}
    with pytest.raises(UserError, match=rf"{os.strerror(errno.ENOSPC)}.*make room"):
        prepare(official, small_disk / "data", **options)
    grow = ["mount", "-o", "remount,size=50m", str(small_disk)]
    subprocess.run(grow, check=True, capture_output=True)
    whole = prepare(official, small_disk / "data", **options).store
    assert digests(whole) == digests(prepare(official, tmp_path / "data", **SMALL).store)


def test_images_that_readers_disagree_on_are_treated_and_listed(
    official: Sources, tmp_path: Path
) -> None:
    images = train_images()
    wnid = SORTED[1]
    names = list(images[wnid])
    picture = next(photographs(1, seed=9))
    png, exif = io.BytesIO(), Image.Exif()
    picture.save(png, "PNG")
    exif[0x0112] = 6
    images[wnid] = dict(
        zip(
            names,
            [
                jpeg(picture.convert("CMYK")),
                png.getvalue(),
                jpeg(picture.convert("L")),
                jpeg(picture, exif=exif),
                jpeg(picture)[:600],
            ],
            strict=True,
        )
    )
    empty, wide, *_ = images[SORTED[0]]
    images[SORTED[0]][empty] = b""
    images[SORTED[0]][wide] = jpeg(picture.resize((12_000, 40)))
    sources = replace(official, train=tmp_path / "train.tar")
    write_train(sources.train, images)
    prepared = prepare(sources, tmp_path / "data")
    rows = {row.key: row for row in read_rows(tmp_path / "data" / "train.parquet")}
    stems = [name.removesuffix(".JPEG") for name in names]
    assert rows[stems[0]].treatment == "CMYK to RGB, PNG"
    assert rows[stems[3]].treatment == "EXIF orientation 6 not applied"
    assert {rows[stem].treatment for stem in (stems[1], stems[2], stems[4])} == {""}
    assert "can't be decoded" in rows[stems[4]].status
    assert (rows[stems[3]].height, rows[stems[3]].width) == (picture.height, picture.width)
    assert prepared.store.num_quarantined == 2
    assert "zero bytes" in {row.status for row in rows.values()}
    split = prepared.store.split("train")
    assert split.sizes[split.keys.index(wide.removesuffix(".JPEG"))].tolist() == [40, 12_000]
    shown = Image.open(io.BytesIO(split.encoded(split.keys.index(stems[0])).tobytes()))
    assert (shown.format, shown.mode, shown.size) == ("PNG", "RGB", picture.size)


def test_larger_images_are_made_smaller_on_request(official: Sources, tmp_path: Path) -> None:
    store = prepare(official, tmp_path / "data", shrinking=Shrinking(96, 90)).store
    assert store.source["shrinking"] == {"shorter_side": 96, "quality": 90}
    before = prepare(official, tmp_path / "whole").store.split("train")
    after = store.split("train")
    for old, new in zip(before.sizes.tolist(), after.sizes.tolist(), strict=True):
        assert min(new) == min(96, *old)
    treated = [row.treatment for row in read_rows(tmp_path / "data" / "train.parquet")]
    assert "shorter side to 96, JPEG of quality 90" in treated
    assert "" in treated


FIRST = f"{SORTED[0]}_3.JPEG"


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (hostile("/etc/cron.d/evil"), "has no place there"),
        (hostile(f"../{FIRST}"), "has no place there"),
        (hostile("n01440764_1.JPEG\nn01440764_2.JPEG"), "has no place there"),
        (hostile("more.tar"), "has no place there"),
        (hostile(FIRST, tarfile.SYMTYPE), "is no plain file"),
        (hostile(FIRST, tarfile.LNKTYPE), "is no plain file"),
        (hostile(FIRST, tarfile.CHRTYPE), "is no plain file"),
        (hostile(FIRST, tarfile.FIFOTYPE), "is no plain file"),
        (b"not a tar archive at all" * 100, "not a whole tar archive"),
    ],
)
def test_hostile_archives_are_refused_by_name(
    inner: bytes, message: str, official: Sources, tmp_path: Path
) -> None:
    archive = tmp_path / "in" / "train.tar"
    archive.parent.mkdir()
    write_tar(archive, {f"{wnid}.tar": inner for wnid in SORTED})
    with pytest.raises(UserError, match=message):
        prepare(replace(official, train=archive), tmp_path / "out" / "data")
    assert not list(tmp_path.rglob("data*"))


def bomb() -> bytes:
    """Return a PNG of a hundred bytes that promises 60,000×60,000 pixels."""
    image = io.BytesIO()
    Image.new("1", (8, 8)).save(image, "PNG")
    signature, size, rest = image.getvalue()[:16], struct.pack(">II", 60_000, 60_000), b"\1\0\0\0\0"
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + size + rest))
    return signature + size + rest + checksum + image.getvalue()[33:]


def test_a_decompression_bomb_is_left_out(official: Sources, tmp_path: Path) -> None:
    images = train_images()
    images[SORTED[0]][FIRST] = bomb()
    write_train(tmp_path / "train.tar", images)
    prepare(replace(official, train=tmp_path / "train.tar"), tmp_path / "data")
    (bad,) = (r for r in read_rows(tmp_path / "data" / "train.parquet") if r.status != "ok")
    assert "decompression bomb" in bad.status


def without(images: dict[str, dict[str, bytes]], wnid: str) -> dict[str, dict[str, bytes]]:
    return {key: value for key, value in images.items() if key != wnid}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images: without(images, SORTED[2]), f"has no {SORTED[2]}.tar"),
        (lambda images: images | {"n99999999": {"n99999999_1.JPEG": b"x"}}, "of no class"),
        (
            lambda images: images | {SORTED[0]: dict(list(images[SORTED[0]].items())[:4])},
            "20 images, expected 23",
        ),
        (lambda images: images | {SORTED[0]: {"n02000000_1.JPEG": b"x"}}, "is in the archive of"),
    ],
)
def test_missing_or_other_images_are_named(
    change: Any, message: str, official: Sources, tmp_path: Path
) -> None:
    write_train(tmp_path / "train.tar", change(train_images()))
    with pytest.raises(UserError, match=message):
        prepare(replace(official, train=tmp_path / "train.tar"), tmp_path / "data")


def test_a_name_that_is_there_twice_is_named(official: Sources, tmp_path: Path) -> None:
    images = train_images()
    inner = io.BytesIO()
    write_tar(inner, [*images[SORTED[0]].items(), (FIRST, b"another")])
    archives = {}
    for wnid, members in images.items():
        buffer = io.BytesIO()
        write_tar(buffer, members)
        archives[f"{wnid}.tar"] = buffer.getvalue()
    archives[f"{SORTED[0]}.tar"] = inner.getvalue()
    write_tar(tmp_path / "train.tar", archives)
    with pytest.raises(UserError, match=r"train\.tar: n01440764_3 is there twice"):
        prepare(replace(official, train=tmp_path / "train.tar"), tmp_path / "data")


def test_a_cut_archive_is_noticed(official: Sources, tmp_path: Path) -> None:
    whole = official.train.read_bytes()
    (tmp_path / "train.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"ends in the middle of|not a whole tar archive|has no n"):
        prepare(replace(official, train=tmp_path / "train.tar"), tmp_path / "data")


def test_the_labels_of_another_edition_are_refused(official: Sources, tmp_path: Path) -> None:
    other = replace(EDITION, first_val_labels=(65, 970, 230))
    with pytest.raises(UserError, match=r"first images have labels \(3, 1, 0\), expected \(65"):
        prepare(official, tmp_path / "data", edition=other)


def test_md5_sums_are_compared_before_anything_is_packed(official: Sources, tmp_path: Path) -> None:
    archives = official.items()
    sums = {name: hashlib.md5(path.read_bytes()).hexdigest() for name, path in archives.items()}
    calls: list[tuple[int, int]] = []
    options = {"checking": lambda *numbers: calls.append(numbers)}
    other = replace(EDITION, md5=sums | {"val": "another"})
    with pytest.raises(UserError, match=r"val\.tar: MD5 .*, the official archive has another"):
        prepare(official, tmp_path / "data", edition=other, **options)
    assert not list(tmp_path.rglob("*.tar"))
    prepare(official, tmp_path / "data", edition=replace(EDITION, md5=sums), **options)
    size = sum(path.stat().st_size for path in archives.values())
    assert calls[-1] == (size, size)


@pytest.fixture
def long_to_read(tmp_path: Path) -> Sources:
    """The training archive takes seconds, the others nothing."""
    sources = Sources(tmp_path / "train.tar", tmp_path / "val.tar", tmp_path / "devkit.tar.gz")
    for path in sources.items().values():
        path.write_bytes(b"not official")
    os.truncate(sources.train, 4 * 2**30)
    return sources


def test_the_first_wrong_archive_ends_the_comparison(long_to_read: Sources) -> None:
    calls: list[tuple[int, int]] = []
    edition = replace(EDITION, md5=dict.fromkeys(("train", "val", "devkit"), "another"))
    with pytest.raises(UserError, match=r"(val\.tar|devkit\.tar\.gz): MD5 "):
        compare_checksums(long_to_read, lambda *numbers: calls.append(numbers), edition)
    done, total = max(calls)
    assert done < total


def test_ctrl_c_ends_the_comparison(long_to_read: Sources) -> None:
    calls: list[tuple[int, int]] = []
    one_at_a_time = threading.Lock()  # several threads tell

    def interrupt(*numbers: int) -> None:
        with one_at_a_time:
            calls.append(numbers)
            if len(calls) == 5:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    sums = {name: hashlib.md5(b"not official").hexdigest() for name in ("val", "devkit")}
    edition = replace(EDITION, md5=sums | {"train": "another"})
    with pytest.raises(InterruptedByUserError, match="stopped while MD5 sums were compared"):
        compare_checksums(long_to_read, interrupt, edition)
    done, total = max(calls)
    assert done < total


def test_the_command_packs_a_subset_and_checks_sums(official: Sources, tmp_path: Path) -> None:
    command = ["prepare", "ilsvrc2012", "--to", str(tmp_path / "data"), "--workers", "0"]
    for name in ("train", "val", "devkit"):
        command += [f"--{name}", str(getattr(official, name))]
    refused = CliRunner().invoke(app, [*command, "--classes", "2"])
    assert isinstance(refused.exception, UserError)
    assert any(
        f"the official archive has {md5}" in str(refused.exception)
        for md5 in ILSVRC2012.md5.values()
    )
    done = CliRunner().invoke(app, [*command, "--classes", "2", "--no-checksum"])
    assert done.exit_code == 0, done.output
    assert f"{NUM_TRAIN[SORTED[0]] + NUM_TRAIN[SORTED[1]]} train" in done.output
    assert "a subset of ILSVRC-2012" in done.output
    command.remove("--train")
    command.remove(str(official.train))
    alone = [*command, "--classes", "2", "--no-checksum", "--to", str(tmp_path / "val")]
    done = CliRunner().invoke(app, alone)
    assert done.exit_code == 0, done.output
    assert "ilsvrc2012-subset: 4 val images" in done.output.replace("\n", " ")
