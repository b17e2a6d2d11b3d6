"""A folder of images as a listing: classes, splits, keys, and what is refused."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.sources.folder import list_folder
from pipeline.data.store.parallel_packing import Listing
from pipeline.data.store.shards import is_key
from pipeline.runtime.errors import UserError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"an image")
    return folder


def many(folder: Path, count: int = 40, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    return touch(folder, *(f"{name}/{i}.jpg" for name in classes for i in range(count)))


def names(listing: Listing, split: str) -> set[str]:
    return set(listing.splits[split].keys)


def test_train_and_val_folders_are_the_splits(tmp_path: Path) -> None:
    touch(tmp_path, "train/dog/2.jpg", "train/dog/10.jpg", "train/Cat/1.jpg", "val/dog/1.jpg")
    touch(tmp_path, "val/Cat/9.png", "test/dog/1.jpg", "README.txt", "train/labels.csv")
    listing = list_folder(tmp_path, 0.1)
    assert [(c.index, c.name) for c in listing.classes] == [(0, "Cat"), (1, "dog")]
    train = listing.splits["train"]
    assert train.keys == ["Cat/1", "dog/10", "dog/2"]
    assert train.labels.tolist() == [0, 1, 1]
    assert listing.splits["val"].keys == ["Cat/9", "dog/1"]


def test_a_share_is_held_out_of_each_class(tmp_path: Path) -> None:
    many(tmp_path, 200)
    listing = list_folder(tmp_path, 0.25)
    assert len(listing.splits["train"]) + len(listing.splits["val"]) == 400
    assert not names(listing, "train") & names(listing, "val")
    for label in (0, 1):
        assert 30 <= (listing.splits["val"].labels == label).sum() <= 70


def test_added_images_change_no_other_images_split(tmp_path: Path) -> None:
    many(tmp_path, 40)
    before = list_folder(tmp_path, 0.2)
    touch(tmp_path, *(f"cat/new-{i}.jpg" for i in range(40)), "ant/1.jpg", "ant/2.jpg")
    after = list_folder(tmp_path, 0.2)
    assert names(before, "train") <= names(after, "train")
    assert names(before, "val") <= names(after, "val")


@pytest.mark.parametrize("val_share", [0.001, 0.999])
def test_every_class_is_in_both_splits(tmp_path: Path, val_share: float) -> None:
    many(tmp_path, 3)
    listing = list_folder(tmp_path, val_share)
    for split in ("train", "val"):
        assert set(listing.splits[split].labels.tolist()) == {0, 1}


def test_keys_lose_their_dots_and_stay_apart(tmp_path: Path) -> None:
    classes = ("v1.0", "x y")
    for split in ("train", "val"):
        touch(tmp_path, *(f"{split}/{name}/a.b.jpg" for name in classes))
        touch(tmp_path, *(f"{split}/v1.0/{name}" for name in ("a.b.png", "a_b.jpg", "a_b_2.jpg")))
    images = list_folder(tmp_path, 0.1).splits["train"][:4]
    keys = {Path(file).name: key for file, key in zip(images.files, images.keys, strict=True)}
    assert keys == {
        "a.b.jpg": "v1.0/a_b",
        "a.b.png": "v1.0/a_b_2",
        "a_b.jpg": "v1.0/a_b_3",
        "a_b_2.jpg": "v1.0/a_b_2_2",
    }


@settings(max_examples=30, deadline=None)
@given(stems=st.lists(st.text("ab._-\n\x7fé\udcff ", min_size=1, max_size=8), unique=True))
def test_odd_names_make_good_keys(
    tmp_path_factory: pytest.TempPathFactory, stems: list[str]
) -> None:
    folder = touch(tmp_path_factory.mktemp("odd"), "x/first.jpg", "x/second.jpg")
    touch(folder, "y/first.jpg", "y/second.jpg", *(f"x/{stem}.jpg" for stem in stems))
    listing = list_folder(folder, 0.3)
    keys = [key for split in listing.splits.values() for key in split.keys]
    assert len(keys) == 4 + sum(not stem.startswith(".") for stem in stems)
    assert len(set(keys)) == len(keys)
    assert all(is_key(key) for key in keys)


@pytest.mark.parametrize("splits", [("",), ("train/", "val/")])
def test_what_desktops_leave_behind_is_left_out_and_listed(
    splits: tuple[str, ...], tmp_path: Path
) -> None:
    for split in splits:
        many(tmp_path / split, 3)
    touch(tmp_path, ".DS_Store", ".cache/1.jpg", "__MACOSX/cat/._1.jpg", "@eaDir/cat/1.jpg")
    touch(tmp_path, "labels.csv", ".ipynb_checkpoints/1.jpg")
    touch(tmp_path / splits[0], "cat/.DS_Store", "cat/._1.jpg", "cat/._2.jpg", "cat/Thumbs.db")
    touch(tmp_path / splits[0], "dog/desktop.ini", "dog/@eaDir/x")
    listing = list_folder(tmp_path, 0.5)
    assert len(listing.classes) == 2
    assert sum(map(len, listing.splits.values())) == 6 * len(splits)
    (note,) = listing.notes
    for part in (".DS_Store (2)", "._* (2)", "@eaDir (2)", "Thumbs.db", "desktop.ini"):
        assert part in note
    for part in (".cache", "__MACOSX", ".ipynb_checkpoints", "labels.csv"):
        assert part in note


@pytest.mark.parametrize("name", ["valid", "validation", "Val", "dev"])
def test_other_names_of_val_are_known(name: str, tmp_path: Path) -> None:
    many(tmp_path / "Train", 3)
    many(tmp_path / name, 2)
    listing = list_folder(tmp_path, 0.1)
    assert {split: len(images) for split, images in listing.splits.items()} == {
        "train": 6,
        "val": 4,
    }


def test_test_is_said_and_taken_where_there_is_no_val(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        many(tmp_path / split, 2)
    listing = list_folder(tmp_path, 0.1)
    assert (list(listing.splits), listing.notes) == (
        ["train", "val"],
        ("test/ is not packed; val is what is tested",),
    )
    shutil.rmtree(tmp_path / "val")
    listing = list_folder(tmp_path, 0.1)
    assert (list(listing.splits), "data.test_split=test" in listing.notes[0]) == (
        ["train", "test"],
        True,
    )


def test_val_may_lack_classes_and_says_so(tmp_path: Path) -> None:
    many(tmp_path / "train", 2, ("ant", "cat", "dog"))
    many(tmp_path / "val", 2, ("cat", "dog"))
    listing = list_folder(tmp_path, 0.1)
    assert [each.name for each in listing.classes] == ["ant", "cat", "dog"]
    assert listing.splits["val"].labels.tolist() == [1, 1, 2, 2]
    assert "val/ lacks 1 of train's 3 classes, as 'ant'" in listing.notes


def test_a_class_of_one_image_is_in_train(tmp_path: Path) -> None:
    touch(many(tmp_path, 3), "eel/1.jpg")
    listing = list_folder(tmp_path, 0.5)
    assert names(listing, "train") >= {"eel/1"}
    assert set(listing.splits["val"].labels.tolist()) == {0, 1}
    assert listing.notes == ("classes of a single image are in train alone: eel",)


def test_links_out_of_the_folder_are_followed_if_asked(tmp_path: Path) -> None:
    full, subset = tmp_path / "full", tmp_path / "subset"
    for split in ("train", "val"):
        many(full / split, 2, ("n01", "n02", "n03"))
        (subset / split).mkdir(parents=True)
        for name in ("n01", "n03"):
            (subset / split / name).symlink_to(full / split / name)
    with pytest.raises(UserError, match=r"train/n01: a symbolic link out.*--follow-links"):
        list_folder(subset, 0.1)
    listing = list_folder(subset, 0.1, follow_links=True)
    assert [each.name for each in listing.classes] == ["n01", "n03"]
    assert listing.splits["val"].keys == ["n01/0", "n01/1", "n03/0", "n03/1"]
    (subset / "val" / "n04").symlink_to(subset / "val")
    with pytest.raises(UserError, match="n04: a symbolic link to a folder that it is in"):
        list_folder(subset, 0.1, follow_links=True)


def test_all_is_val_for_one_who_only_evaluates(tmp_path: Path) -> None:
    many(tmp_path / "set", 2)
    listing = list_folder(tmp_path / "set", 0.1, only_val=True)
    assert {split: len(images) for split, images in listing.splits.items()} == {"val": 4}
    for split in ("train", "val"):
        many(tmp_path / "both" / split, 1)
    listing = list_folder(tmp_path / "both", 0.1, only_val=True)
    assert [Path(file).parent.parent.name for file in listing.splits["val"].files] == ["val"] * 2
    assert "train not packed" in listing.notes[0]


@pytest.mark.parametrize(
    ("labels", "content"),
    [
        ("val.txt", "a.jpg n02\nb.jpg n01\nc.jpg n02\n"),
        ("val_annotations.txt", "a.jpg\tn02\t0\t0\t9\t9\nb.jpg\tn01\t1\nc.jpg\tn02\t1\n"),
        ("bom.txt", "\ufeffdeep/a.jpg n02\r\nb.jpg n01\r\nc.jpg n02\r\n"),
        (
            "solution.csv",
            "ImageId,PredictionString\na,n02 1 2 3 4\nb,n01 1 2 3 4\nc,n02 1 2 3 4 \n",
        ),
        ("labels.json", '{"a.jpg": ["n02"], "b.jpg": "n01", "c": "n02"}'),
    ],
)
def test_a_file_labels_a_flat_folder(labels: str, content: str, tmp_path: Path) -> None:
    touch(tmp_path / "images", "a.jpg", "b.jpg", "deeper/c.jpg", ".DS_Store")
    (tmp_path / labels).write_text(content)
    listing = list_folder(tmp_path / "images", 0.1, only_val=True, labels=tmp_path / labels)
    assert [each.name for each in listing.classes] == ["n01", "n02"]
    val = listing.splits["val"]
    assert dict(zip(val.keys, val.labels.tolist(), strict=True)) == {"a": 1, "b": 0, "c": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.jpg n01\n", r"b.jpg: .* has no label for it"),
        ("a.jpg n01\nb.jpg n02\nz.jpg n02\n", r"labels 'z', which is not in"),
        ("a.jpg n01\na.jpg n02\n", r"line 2: a is there twice, with other labels"),
        ("a.jpg\n", r"line 1: 'a.jpg' names no label"),
        ("[[1], [2, 3]]", r"val_00000002 has 2 labels.*predictions RUN --labels"),
        ('{"a": {}}', r"no labels in JSON"),
        ("", r"labels no image"),
    ],
)
def test_labels_that_do_not_fit_are_refused(content: str, message: str, tmp_path: Path) -> None:
    touch(tmp_path / "images", "a.jpg", "b.jpg")
    (tmp_path / "labels").write_text(content)
    with pytest.raises(UserError, match=message) as refusal:
        list_folder(tmp_path / "images", 0.1, only_val=True, labels=tmp_path / "labels")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("make", "command"),
    [
        (lambda folder: touch(folder, "data/train-00000-of-00001.parquet"), "parquet"),
        (lambda folder: touch(folder, "wnids.txt", "train/n1/images/a.jpg"), "tiny-imagenet"),
        (lambda folder: touch(folder, "train-000000.tar"), "webdataset"),
        (lambda folder: touch(folder, "LOC_val_solution.csv", "ILSVRC/x"), "kaggle"),
    ],
)
def test_other_layouts_are_recognised(make: object, command: str, tmp_path: Path) -> None:
    make(tmp_path)  # type: ignore[operator]
    with pytest.raises(UserError, match=f"as if made for `ilsvrc prepare {command} "):
        list_folder(tmp_path, 0.1)


def test_links_within_the_folder_are_followed(tmp_path: Path) -> None:
    many(tmp_path, 3)
    (tmp_path / "cat" / "again.jpg").symlink_to("1.jpg")
    assert sum(map(len, list_folder(tmp_path, 0.5).splits.values())) == 7


def fingerprint(folder: Path) -> object:
    return list_folder(folder, 0.1).identity["fingerprint"]


def test_fingerprint_follows_names_sizes_and_times(tmp_path: Path) -> None:
    many(tmp_path, 5)
    path = tmp_path / "cat" / "1.jpg"
    os.utime(path, ns=(0, 10**18))
    first = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == first
    os.utime(path, ns=(0, 10**18 + 1))
    touched = fingerprint(tmp_path)
    path.write_bytes(b"a longer image")
    os.utime(path, ns=(0, 10**18))
    longer = fingerprint(tmp_path)
    path.write_bytes(b"an image")
    path.rename(path.with_name("renamed.jpg"))
    os.utime(path.with_name("renamed.jpg"), ns=(0, 10**18))
    renamed = fingerprint(tmp_path)
    assert len({first, touched, longer, renamed}) == 4


def link_out(folder: Path) -> None:
    many(folder)
    (folder / "cat" / "out.jpg").symlink_to("/etc/hostname")


def link_class_out(folder: Path) -> None:
    many(folder)
    (folder / "etc").symlink_to("/etc")


def link_to_nothing(folder: Path) -> None:
    many(folder)
    (folder / "cat" / "gone.jpg").symlink_to("nothing")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.rmdir, r"no such folder of images"),
        (lambda folder: None, r"no class folders; put the images in .*/CLASS/"),
        (lambda folder: touch(folder, "1.jpg"), r"no class folders"),
        (lambda folder: many(folder, classes=("cat",)), r"only one class \('cat'\)"),
        (lambda folder: (many(folder) / "eel").mkdir(), r"/eel: no images; add some or remove"),
        (lambda folder: touch(many(folder), "eel/.hidden.jpg"), r"/eel: no images"),
        (lambda folder: touch(many(folder), "cat/more/1.jpg"), r"/cat/more: not a file"),
        (lambda folder: os.mkfifo(many(folder) / "cat" / "pipe"), r"/cat/pipe: not a file"),
        (lambda folder: many(folder, classes=("cat", "a\nb")), r"/a_b: not a name that .* rename"),
        (lambda folder: many(folder, classes=("cat", "a\udcff")), r"/a_: not a name that"),
        (lambda folder: many(folder, classes=("cat", "__x__")), r"/__x__: not a name that"),
        (link_out, r"/cat/out.jpg: a symbolic link out of the folder; copy the images in"),
        (link_class_out, r"/etc: a symbolic link out of the folder"),
        (link_to_nothing, r"/cat/gone.jpg: a symbolic link to nothing; remove it"),
        (lambda folder: many(folder / "train"), r"classes in train/ but none in val/; .*/train al"),
        (lambda folder: many(folder / "val"), r"classes in val/ but none in train/"),
        (
            lambda folder: (many(folder / "val"), touch(folder, "train/cat/1.jpg")),
            r"/train: has no class 'dog'",
        ),
    ],
)
def test_folders_that_are_no_data_set_are_refused(
    tmp_path: Path, make: object, message: str
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    make(folder)  # type: ignore[operator]
    with pytest.raises(UserError, match=message) as refusal:
        list_folder(folder, 0.1)
    assert "\n" not in str(refusal.value)
    str(refusal.value).encode()


@pytest.mark.parametrize("val_share", [-0.1, 0.0, 1.0, 3.0, float("nan")])
def test_a_share_must_be_a_share(tmp_path: Path, val_share: float) -> None:
    with pytest.raises(UserError, match="must be between 0 and 1"):
        list_folder(many(tmp_path), val_share)
