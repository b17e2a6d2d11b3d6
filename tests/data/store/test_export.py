"""Exported data sets, read by torchvision's and WebDataset's own readers, and packed again."""

import gc
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torchvision
import webdataset
from intact import is_intact
from small_ilsvrc2012 import EDITION, SORTED, jpeg, photographs, write_official, write_tar
from typer.testing import CliRunner

from pipeline.cli.commands import app
from pipeline.data.sources.ilsvrc2012 import Sources
from pipeline.data.sources.prepare import prepare_folder, prepare_ilsvrc2012, prepare_webdataset
from pipeline.data.store.export import export_folder
from pipeline.data.store.store import Store
from pipeline.runtime.errors import UserError


def nothing(done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return replace(write_official(tmp_path_factory.mktemp("archives")), test=None)


@pytest.fixture(scope="module")
def store(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare_ilsvrc2012(
        sources, tmp_path_factory.mktemp("packed") / "data", checking=None, num_workers=0,
        progress=nothing, edition=EDITION, shard_bytes=50_000,
    ).store  # fmt: skip


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


# torchvision unpacks the kit as Python before 3.14 does, which 3.12 and 3.13 warn of.
@pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")
def test_torchvision_reads_the_folder_with_the_same_labels(
    store: Store, sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("export", "folder", store.folder, "--to", tmp_path / "out")
    archive, _ = torchvision.datasets.imagenet.ARCHIVE_META["devkit"]
    shutil.copyfile(sources.devkit, tmp_path / "out" / archive)
    meta = {**torchvision.datasets.imagenet.ARCHIVE_META, "devkit": (archive, None)}
    monkeypatch.setattr(torchvision.datasets.imagenet, "ARCHIVE_META", meta)
    for name in ("train", "val"):
        theirs = torchvision.datasets.ImageNet(tmp_path / "out", split=name)
        ours = store.split(name)
        assert theirs.wnids == SORTED
        labels = {Path(file).stem: label for file, label in theirs.samples}
        assert labels == dict(zip(ours.keys, ours.labels.tolist(), strict=True))
        for file, _ in theirs.samples:
            i = ours.keys.index(Path(file).stem)
            assert Path(file).read_bytes() == ours.encoded(i).tobytes()


def test_webdataset_reads_the_shards_and_they_can_be_packed_again(
    store: Store, tmp_path: Path
) -> None:
    run("export", "webdataset", store.folder, "--to", tmp_path / "out")
    shards = sorted(str(path) for path in (tmp_path / "out").glob("train-*.tar"))
    assert len(shards) > 1
    train = store.split("train")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves files open
        read = list(webdataset.WebDataset(shards, shardshuffle=False))
        gc.collect()
    assert [(each["__key__"], each["jpg"], int(each["cls"])) for each in read] == [
        (key, train.encoded(i).tobytes(), train.labels[i]) for i, key in enumerate(train.keys)
    ]
    output = run("prepare", "webdataset", tmp_path / "out", "--to", tmp_path / "b", "--workers", 0)
    assert "23 train, 8 val images" in output
    again = Store.open(tmp_path / "b")
    assert again.split("train").keys == train.keys
    assert again.split("train").labels.tolist() == train.labels.tolist()
    assert is_intact(again)


def test_classes_with_a_dot_in_their_names_come_back(tmp_path: Path) -> None:
    image = jpeg(next(photographs(1)))
    folders = ("train/v1.0", "train/x", "val/v1.0", "val/x")
    for name in folders:
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "a.b.jpg").write_bytes(image)
    store = prepare_folder(
        tmp_path / "in", tmp_path / "data", "x", val_share=0.1, on_bad="stop", num_workers=0,
        progress=nothing,
    ).store  # fmt: skip
    export_folder(store, tmp_path / "out", nothing)
    for name in folders:
        assert (tmp_path / "out" / name / "a_b.jpg").read_bytes() == image


def test_keys_that_become_one_name_are_numbered(tmp_path: Path) -> None:
    first, second, third, fourth = (jpeg(photo) for photo in photographs(4))
    members = {"x/y": first, "x_y": second, "x_y_2": third, "z": fourth}
    (tmp_path / "in").mkdir()
    write_tar(
        tmp_path / "in" / "train-000000.tar",
        {f"{key}.{kind}": data for key, image in members.items()
         for kind, data in (("jpg", image), ("cls", b"0"))},
    )  # fmt: skip
    store = prepare_webdataset(
        tmp_path / "in", tmp_path / "data", "x", num_workers=0, progress=nothing
    ).store
    export_folder(store, tmp_path / "out", nothing)
    written = {path.name: path.read_bytes() for path in (tmp_path / "out/train/0").iterdir()}
    assert written == {
        "x_y.jpg": first, "x_y_2.jpg": second, "x_y_2_2.jpg": third, "z.jpg": fourth,
    }  # fmt: skip


def test_an_existing_folder_is_left_alone(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        export_folder(store, tmp_path, nothing)
