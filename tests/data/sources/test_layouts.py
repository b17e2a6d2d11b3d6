"""One small ILSVRC in the layouts that people have: the same images, classes and order of each."""

import csv
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from small_ilsvrc2012 import (
    EDITION,
    NUM_TEST,
    SORTED,
    VAL_IDS,
    WNIDS,
    jpeg,
    photographs,
    train_images,
    write_official,
    write_tar,
)
from typer.testing import CliRunner

from pipeline.cli.commands import app
from pipeline.config.cluster import load_cluster
from pipeline.config.recipe import load_recipe
from pipeline.data.sources.folder import list_folder
from pipeline.data.sources.ilsvrc2012 import Sources, kaggle_sources
from pipeline.data.sources.parquet import list_parquet
from pipeline.data.sources.prepare import Prepared, prepare_ilsvrc2012, prepare_listing
from pipeline.data.sources.repair import repair
from pipeline.data.sources.tiny_imagenet import list_tiny_imagenet
from pipeline.data.sources.webdataset import list_webdataset
from pipeline.data.store.index import read_rows
from pipeline.data.store.parallel_packing import Listing
from pipeline.data.store.store import Store
from pipeline.runtime.errors import UserError
from pipeline.trainer.driver import run_training

VAL_LABELS = [SORTED.index(WNIDS[number - 1]) for number in VAL_IDS]


def nothing(done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class Ilsvrc:
    """The official archives, and their images: {name: JPEG}, {WNID: {name: JPEG}}."""

    sources: Sources
    train: dict[str, dict[str, bytes]]
    val: dict[str, bytes]


@pytest.fixture(scope="module")
def ilsvrc(tmp_path_factory: pytest.TempPathFactory) -> Ilsvrc:
    sources = write_official(tmp_path_factory.mktemp("official"))
    val = {}
    with tarfile.open(sources.val) as archive:
        for entry in archive:
            content = archive.extractfile(entry)
            assert content
            val[entry.name] = content.read()
    train = {wnid: dict(sorted(train_images()[wnid].items())) for wnid in SORTED}
    return Ilsvrc(replace(sources, test=None), train, dict(sorted(val.items())))


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def kaggle_files(ilsvrc: Ilsvrc) -> dict[str, bytes | str]:
    """Return the files that Kaggle gives; the solution's lines are in no order."""
    root = "ILSVRC/Data/CLS-LOC"
    files: dict[str, bytes | str] = {
        f"{root}/train/{wnid}/{name}": data
        for wnid, images in ilsvrc.train.items()
        for name, data in images.items()
    }
    files |= {f"{root}/val/{name}": data for name, data in ilsvrc.val.items()}
    pictures = photographs(NUM_TEST)
    files |= {
        f"{root}/test/ILSVRC2012_test_{k:08d}.JPEG": jpeg(next(pictures))
        for k in range(1, NUM_TEST + 1)
    }
    rows = [
        (name.removesuffix(".JPEG"), f"{SORTED[label]} 1 2 30 40 {SORTED[label]} 5 6 7 8 ")
        for name, label in zip(ilsvrc.val, VAL_LABELS, strict=True)
    ]
    text = io.StringIO()
    csv.writer(text).writerows([("ImageId", "PredictionString"), *rows[::-1]])
    files["LOC_val_solution.csv"] = text.getvalue()
    files["LOC_synset_mapping.txt"] = "".join(f"{w} thing {w}, crane\n" for w in SORTED)
    files["LOC_sample_submission.csv"] = "ImageId,PredictionString\n"
    return files


def kaggle_folder(ilsvrc: Ilsvrc, folder: Path) -> Sources:
    for name, content in kaggle_files(ilsvrc).items():
        write(folder / name, content)
    return kaggle_sources(folder)


def kaggle_zip(ilsvrc: Ilsvrc, folder: Path) -> Sources:
    """Half of the images are deflated, as by `zip`, half stored."""
    file = folder / "imagenet-object-localization-challenge.zip"
    file.parent.mkdir(parents=True)
    methods = (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED)
    with zipfile.ZipFile(file, "w") as archive:
        for number, (name, content) in enumerate(kaggle_files(ilsvrc).items()):
            archive.writestr(name, content, methods[number % 2])
    return kaggle_sources(file)


def extracted(ilsvrc: Ilsvrc, folder: Path) -> Sources:
    """The folders of the archives, val in a folder for each class, as PyTorch's script does."""
    for wnid, images in ilsvrc.train.items():
        for name, data in images.items():
            write(folder / "train" / wnid / name, data)
    for (name, data), label in zip(ilsvrc.val.items(), VAL_LABELS, strict=True):
        write(folder / "val" / SORTED[label] / name, data)
    return Sources(folder / "train", folder / "val", ilsvrc.sources.devkit)


def linked(ilsvrc: Ilsvrc, folder: Path) -> Sources:
    sources = extracted(ilsvrc, folder / "original")
    (folder / "train").mkdir()
    for wnid in SORTED:
        (folder / "train" / wnid).symlink_to(sources.train / wnid)
    return replace(sources, train=folder / "train")


def with_appended_classes(ilsvrc: Ilsvrc, folder: Path) -> Sources:
    sources = extracted(ilsvrc, folder)
    for path in [*sources.train.rglob("*.JPEG"), *sources.val.rglob("*.JPEG")]:
        path.rename(sources.val / f"{path.stem}_{path.parent.name}.JPEG") if (
            sources.val in path.parents
        ) else path.rename(path.with_stem(f"{path.stem}_{path.parent.name}"))
    return sources


def flat(ilsvrc: Ilsvrc, folder: Path) -> Sources:
    """All images of train in one folder, as Hugging Face's archives unpack."""
    sources = with_appended_classes(ilsvrc, folder)
    for path in list(sources.train.rglob("*.JPEG")):
        path.rename(sources.train / path.name)
    for wnid in SORTED:
        (sources.train / wnid).rmdir()
    return sources


def hugging_face(ilsvrc: Ilsvrc, folder: Path) -> Listing:
    """Two files of train, small groups of rows, names with the class appended, ClassLabels."""
    train = [
        (f"{name.removesuffix('.JPEG')}_{wnid}.JPEG", data, SORTED.index(wnid))
        for wnid, images in ilsvrc.train.items()
        for name, data in images.items()
    ]
    val = [
        (f"{name.removesuffix('.JPEG')}_{SORTED[label]}.JPEG", data, label)
        for (name, data), label in zip(ilsvrc.val.items(), VAL_LABELS, strict=True)
    ]
    names = ["crane", "tench, Tinca tinca", "crane", "pier"]
    features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    files = {
        "train-00000-of-00002": train[:13],
        "train-00001-of-00002": train[13:],
        "validation-00000-of-00001": val,
    }
    (folder / "data").mkdir(parents=True)
    write(folder / "README.md", "# a card")
    for name, rows in files.items():
        images = [{"bytes": data, "path": path} for path, data, _ in rows]
        labels = pa.array([label for *_, label in rows], pa.int64())
        table = pa.table({"image": images, "label": labels})
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
        pq.write_table(table, folder / "data" / f"{name}.parquet", row_group_size=5)
    return list_parquet(folder)


def webdataset(ilsvrc: Ilsvrc, folder: Path) -> Listing:
    """Names as of timm, paths with ./, a label with a line's end, other members."""
    folder.mkdir(parents=True)
    members: dict[str, bytes] = {}
    for wnid, images in ilsvrc.train.items():
        for name, data in images.items():
            key = f"./{name.removesuffix('.JPEG')}"
            members |= {
                f"{key}.jpg": data,
                f"{key}.cls": f"{SORTED.index(wnid)}\n".encode(),
                f"{key}.json": b"{}",
            }
    cut = 3 * 9
    items = list(members.items())
    write_tar(folder / "imagenet1k-train-0000.tar", items[:cut])
    write_tar(folder / "imagenet1k-train-0001.tar", items[cut:])
    val: dict[str, bytes] = {}
    for (name, data), label in zip(ilsvrc.val.items(), VAL_LABELS, strict=True):
        key = name.removesuffix(".JPEG")
        val |= {f"{key}.JPEG": data, f"{key}.cls": b" %d " % label}
    write_tar(folder / "imagenet1k-validation-00.tar", val)
    return list_webdataset(folder)


def prepare_sources(sources: Sources, to: Path, **options: Any) -> Prepared:
    return prepare_ilsvrc2012(
        sources, to, checking=None, num_workers=0, progress=nothing, edition=EDITION, **options
    )


def packed(layout: Callable[[Ilsvrc, Path], Any], ilsvrc: Ilsvrc, folder: Path) -> Prepared:
    source, to = layout(ilsvrc, folder / "source"), folder / layout.__name__
    if isinstance(source, Listing):
        return prepare_listing(
            source, to, "small", on_bad="stop", num_workers=0, progress=nothing, shard_bytes=60_000
        )
    return prepare_sources(source, to, follow_links=layout is linked, shard_bytes=60_000)


LAYOUTS = [
    extracted, linked, with_appended_classes, flat, kaggle_folder, kaggle_zip, hugging_face,
    webdataset,
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_what_the_official_archives_give(
    layout: Callable[[Ilsvrc, Path], Any], ilsvrc: Ilsvrc, tmp_path: Path
) -> None:
    """The digest covers the classes' order, keys, labels and bytes: all that a training reads."""
    official = prepare_sources(ilsvrc.sources, tmp_path / "official", shard_bytes=60_000).store
    store = packed(layout, ilsvrc, tmp_path).store
    assert [each.name for each in store.classes] == SORTED
    for split in ("train", "val"):
        own, other = (
            [(row.key, row.label, row.sha256) for row in read_rows(s.folder / f"{split}.parquet")]
            for s in (store, official)
        )
        assert own == other
    assert store.digest == official.digest
    assert store.name != "ilsvrc2012"
    shard = store.folder / store.split_manifest("train").shards[0].name
    content = shard.read_bytes()
    shard.write_bytes(content[:9000])
    assert repair(store.folder, 0, nothing, EDITION) == [shard.name]
    assert shard.read_bytes() == content


def test_ray_packs_other_layouts_too(ilsvrc: Ilsvrc, tmp_path: Path, ray_session: None) -> None:
    official = prepare_sources(ilsvrc.sources, tmp_path / "official").store
    listing = hugging_face(ilsvrc, tmp_path / "hugging-face")
    packing = {"on_bad": "stop", "num_workers": 2, "progress": nothing, "shard_bytes": 20_000}
    store = prepare_listing(listing, tmp_path / "a", "a", **packing).store  # type: ignore[arg-type]
    assert store.digest == official.digest
    zipped = kaggle_zip(ilsvrc, tmp_path / "kaggle")
    options = {"num_workers": 2, "edition": EDITION, "shard_bytes": 20_000}
    kaggle = prepare_ilsvrc2012(zipped, tmp_path / "b", checking=None, progress=nothing, **options)  # type: ignore[arg-type]
    assert kaggle.store.digest == official.digest


def test_two_layouts_train_to_the_same_loss(
    ilsvrc: Ilsvrc, tracking_uri: str, tmp_path: Path
) -> None:
    prepare_sources(ilsvrc.sources, tmp_path / "official")
    packed(hugging_face, ilsvrc, tmp_path)
    places = [f"data_dir={tmp_path}", f"runs_dir={tmp_path / 'runs'}", "workers.count=0"]
    cluster = load_cluster("laptop", [*places, f"tracking.uri={tracking_uri}"])
    counts = []
    for name in ("official", "hugging_face"):
        settings = ["epochs=2", f"data.name={name}", "network.num_classes=4"]
        batch = "batch={global_batch_size: 8, micro_batch_size: 8}"
        recipe = load_recipe("smoke", [*settings, batch])
        result = run_training(recipe, "smoke", cluster, name, Console(quiet=True))
        assert result
        counts.append((result.counts, result.counts.micronats))
    assert counts[0] == counts[1]


def test_classes_keep_their_words(ilsvrc: Ilsvrc, tmp_path: Path) -> None:
    store = packed(kaggle_folder, ilsvrc, tmp_path / "a").store
    assert store.classes[0].words == "thing n01440764, crane"
    prepared = packed(hugging_face, ilsvrc, tmp_path / "b")
    assert [each.words for each in prepared.store.classes][1] == "tench, Tinca tinca"
    assert prepared.notes == ("left out: README.md",)
    notes = packed(webdataset, ilsvrc, tmp_path / "c").notes
    assert notes == ("left out: *.json (23)",)


def test_links_are_named_unless_followed(ilsvrc: Ilsvrc, tmp_path: Path) -> None:
    sources = linked(ilsvrc, tmp_path / "source")
    (sources.train / SORTED[0]).unlink()
    (sources.train / SORTED[0]).mkdir()
    for path in (tmp_path / "source" / "original" / "train" / SORTED[0]).iterdir():
        (sources.train / SORTED[0] / path.name).symlink_to(path)
    with pytest.raises(UserError, match=r"n01440764_\d+.JPEG: a symbolic link; add --follow-links"):
        prepare_sources(sources, tmp_path / "data")
    prepare_sources(sources, tmp_path / "data", follow_links=True)
    (sources.train / SORTED[0] / "n01440764_99.JPEG").symlink_to("nothing")
    with pytest.raises(UserError, match=r"n01440764_99.JPEG: a symbolic link to nothing"):
        prepare_sources(sources, tmp_path / "more", follow_links=True)


def swap_two_val_folders(folder: Path) -> None:
    val = folder / "val"
    (val / SORTED[0]).rename(val / "aside")
    (val / SORTED[1]).rename(val / SORTED[0])
    (val / "aside").rename(val / SORTED[1])


def test_a_val_folder_of_another_class_than_the_devkits_is_refused(
    ilsvrc: Ilsvrc, tmp_path: Path
) -> None:
    sources = extracted(ilsvrc, tmp_path / "source")
    swap_two_val_folders(tmp_path / "source")
    with pytest.raises(UserError, match=r"_val_\d+.JPEG: is of n\d+, but the devkit"):
        prepare_sources(sources, tmp_path / "data")


def edit(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(change((folder / name).read_text())) and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("LOC_val_solution.csv"), r"LOC_val_solution.csv: is missing"),
        (remove("LOC_synset_mapping.txt"), r"LOC_synset_mapping.txt: is missing"),
        (
            edit("LOC_val_solution.csv", lambda t: t + "ILSVRC2012_val_00000099,n01440764 1\n"),
            r"val: lacks ILSVRC2012_val_00000099",
        ),
        (
            edit("LOC_val_solution.csv", lambda t: t.replace("val_00000008,", "val_00000007,")),
            r"(is there twice, with other labels|has ILSVRC2012_val_00000008 unlabelled)",
        ),
        (
            edit("LOC_val_solution.csv", lambda t: t.replace("n01440764", "n99999999")),
            r"LOC_val_solution.csv names 'n99999999', which LOC_synset_mapping.txt lacks",
        ),
        (
            edit("LOC_synset_mapping.txt", lambda t: t + "n01440764 tench\n"),
            r"LOC_synset_mapping.txt has n01440764 twice",
        ),
        (
            edit("LOC_synset_mapping.txt", lambda t: t + "a tench\n"),
            r"line 5: 'a tench' begins with no WNID",
        ),
        (
            lambda folder: shutil.rmtree(folder / "ILSVRC/Data/CLS-LOC/train/n01440764"),
            r"train: has no n01440764; download it again",
        ),
        (
            lambda folder: (folder / "ILSVRC/Data/CLS-LOC/train/n88888888").mkdir(),
            r"n88888888 is of no class of the devkit",
        ),
    ],
)
def test_what_kaggles_tables_and_images_disagree_on_is_named(
    damage: Callable[[Path], None], message: str, ilsvrc: Ilsvrc, tmp_path: Path
) -> None:
    sources = kaggle_folder(ilsvrc, tmp_path / "in")
    damage(tmp_path / "in")
    with pytest.raises(UserError, match=message) as refusal:
        prepare_sources(sources, tmp_path / "out")
    assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_damaged_zip_is_named(ilsvrc: Ilsvrc, tmp_path: Path) -> None:
    sources = kaggle_zip(ilsvrc, tmp_path / "in")
    content = sources.train.read_bytes()
    sources.train.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"zip"):
        prepare_sources(sources, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    stored = bytearray(content)
    place = content.index(b"\xff\xd8\xff")  # of the first stored image
    stored[place : place + 3] = b"\0\0\0"
    sources.train.write_bytes(bytes(stored))
    with pytest.raises(UserError, match=r"\.zip: \w+: not an image"):
        prepare_sources(sources, tmp_path / "out", on_bad="stop")


def test_the_command_packs_a_small_kaggle_set_and_its_subset(
    ilsvrc: Ilsvrc, tmp_path: Path
) -> None:
    kaggle_folder(ilsvrc, tmp_path / "in")
    options = ["--to", str(tmp_path / "mine"), "--workers", "0"]
    done = CliRunner().invoke(app, ["prepare", "kaggle", str(tmp_path / "in"), *options, "--test"])
    assert done.exit_code == 0, done.output
    assert "4 classes, where ILSVRC-2012 has 1,000" in done.output.replace("\n", " ")
    assert "mine: 23 train, 8 val, 6 test images, 4 classes" in done.output.replace("\n", " ")
    inner = str(tmp_path / "in" / "ILSVRC" / "Data" / "CLS-LOC")
    options = ["--to", str(tmp_path / "two"), "--workers", "0", "--classes", "2"]
    done = CliRunner().invoke(app, ["prepare", "kaggle", inner, *options])
    assert done.exit_code == 0, done.output
    assert "ilsvrc2012-subset: 12 train, 4 val images" in done.output.replace("\n", " ")


def parquet_of(folder: Path, name: str = "train-00000-of-00001", **columns: Any) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


IMAGES = [{"bytes": jpeg(picture), "path": None} for picture in photographs(3)]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"label": [0, 1, 0]}, {}, r"no column image: \{bytes, path\}; it has none of its kind"),
        ({"image": IMAGES}, {}, r"no column label, the class's number"),
        ({"image": IMAGES, "a": [0, 1, 2], "b": [0, 1, 2]}, {}, r"are a, b; choose by --label-key"),
        ({"image": IMAGES, "label": [0, None, 1]}, {}, r"row 1: its label is None"),
        ({"image": IMAGES, "label": [0, 1, 0]}, {"image_key": "img"}, r"no column img"),
    ],
)
def test_parquet_without_images_and_labels_is_refused(
    columns: dict[str, Any], options: dict[str, str], message: str, tmp_path: Path
) -> None:
    parquet_of(tmp_path / "in", **columns)
    with pytest.raises(UserError, match=message):
        list_parquet(tmp_path / "in", **options)


def named_images(*wnids: str) -> list[dict[str, object]]:
    return [
        {**image, "path": f"{wnid}_{number}.JPEG"}
        for number, (wnid, image) in enumerate(zip(wnids, IMAGES, strict=True))
    ]


def test_two_labels_of_one_wnid_are_refused(tmp_path: Path) -> None:
    images = named_images("n01440764", "n01440764", "n02000000")
    parquet_of(tmp_path / "in", image=images, label=[0, 1, 2])
    with pytest.raises(UserError, match="labels 0 and 1 are both of n01440764"):
        list_parquet(tmp_path / "in")
    # A label of several WNIDs is a class of one's own.
    parquet_of(tmp_path / "in", image=images, label=[0, 0, 0])
    assert [each.name for each in list_parquet(tmp_path / "in").classes] == ["0"]


def test_parquet_of_other_names_and_columns(tmp_path: Path) -> None:
    folder = parquet_of(tmp_path / "in", img=IMAGES, fine_label=[2, 0, 2], size=[1.0, 2.0, 3.0])
    listing = list_parquet(folder)
    assert [each.name for each in listing.classes] == ["0", "1", "2"]
    store = prepare_listing(
        listing, tmp_path / "a", "a", on_bad="stop", num_workers=0, progress=nothing
    ).store
    train = store.split("train")
    assert train.labels.tolist() == [2, 0, 2]
    assert [train.encoded(i).tobytes() for i in range(3)] == [each["bytes"] for each in IMAGES]
    plain = parquet_of(tmp_path / "b", "0000", image=[e["bytes"] for e in IMAGES], label=[0, 1, 1])
    with pytest.raises(UserError, match="its name tells no split; say with --split"):
        list_parquet(plain)
    assert list(list_parquet(plain, split="val").splits) == ["val"]
    (tmp_path / "c" / "test").mkdir(parents=True)
    shutil.copy(plain / "0000.parquet", tmp_path / "c" / "test" / "0000.parquet")
    assert list(list_parquet(tmp_path / "c").splits) == ["test"]
    (plain / "0000.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match="can't be read as Parquet"):
        list_parquet(plain, split="val")
    with pytest.raises(UserError, match=r"no \.parquet files"):
        list_parquet(tmp_path / "official")
    outside = [{"bytes": None, "path": "elsewhere/a.jpg"}, *IMAGES[1:]]
    missing = list_parquet(parquet_of(tmp_path / "d", image=outside, label=[0, 1, 0]))
    with pytest.raises(UserError, match=r"train-.*parquet: a: zero bytes"):
        prepare_listing(
            missing, tmp_path / "e", "e", on_bad="stop", num_workers=0, progress=nothing
        )


def tiny(folder: Path) -> Path:
    pictures = photographs(10)
    wnids = ("n01629819", "n01443537")
    for wnid in wnids:
        for number in range(3):
            write(
                folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG",
                jpeg(next(pictures).resize((64, 64))),
            )
        write(folder / "train" / wnid / f"{wnid}_boxes.txt", "x\t0\t0\t9\t9\n")
    for number in range(4):
        write(folder / "val" / "images" / f"val_{number}.JPEG", jpeg(next(pictures)))
    lines = [f"val_{number}.JPEG\t{wnids[number % 2]}\t0\t0\t9\t9\n" for number in range(4)]
    write(folder / "val" / "val_annotations.txt", "".join(lines))
    write(folder / "wnids.txt", "\n".join(wnids))
    write(folder / "words.txt", "n01443537\tgoldfish\nn99999999\tother\n")
    write(folder / "test" / "images" / "test_0.JPEG", b"x")
    return folder


def test_tiny_imagenet(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app,
        ["prepare", "tiny-imagenet", str(tiny(tmp_path / "tiny-imagenet-200")), "--workers", "0",
         "--to", str(tmp_path / "tiny")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "test/ has no labels" in done.output
    store = Store.open(tmp_path / "tiny")
    assert [(each.name, each.words) for each in store.classes] == [
        ("n01443537", "goldfish"),
        ("n01629819", ""),
    ]
    assert store.split("train").keys[:2] == ("n01443537/n01443537_0", "n01443537/n01443537_1")
    assert store.split("val").keys == tuple(f"val_{number}" for number in range(4))
    assert store.split("val").labels.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("wnids.txt"), "wnids.txt: can't be read"),
        (remove("val/val_annotations.txt"), "val_annotations.txt: can't be read"),
        (remove("val/images/val_2.JPEG"), "val: val_2 is an image or a label, but not both"),
        (edit("wnids.txt", lambda text: f"{text}\nn01443537"), "a WNID is there twice"),
        (edit("wnids.txt", lambda text: text + "\nn00000001"), "n00000001/images: can't be listed"),
        (lambda f: (f / "train" / "n7").mkdir(), "n7: is no class of wnids.txt"),
        (
            edit("val/val_annotations.txt", lambda text: text.replace("n01443537", "n5")),
            "n5 of val_1 is not in wnids.txt",
        ),
    ],
)
def test_what_tiny_imagenet_lacks_is_named(
    damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    folder = tiny(tmp_path / "in")
    damage(folder)
    with pytest.raises(UserError, match=message):
        list_tiny_imagenet(folder)


def test_a_folder_of_val_is_packed_to_evaluate_on(ilsvrc: Ilsvrc, tmp_path: Path) -> None:
    sources = extracted(ilsvrc, tmp_path)
    listing = list_folder(sources.val, 0.1, only_val=True)
    store = prepare_listing(
        listing, tmp_path / "v", "v", on_bad="stop", num_workers=0, progress=nothing
    ).store
    assert store.split_names == ("val",)
    assert sorted(row.sha256 for row in read_rows(store.folder / "val.parquet")) == sorted(
        row.sha256
        for row in read_rows(
            prepare_sources(ilsvrc.sources, tmp_path / "o").store.folder / "val.parquet"
        )
    )
