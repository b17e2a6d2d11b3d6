"""A folder of images as a listing: classes, splits, keys, and what is refused."""

import os
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


def test_hidden_files_are_left_out(tmp_path: Path) -> None:
    many(tmp_path, 3)
    touch(tmp_path, ".DS_Store", "cat/.DS_Store", "cat/._1.jpg", ".cache/1.jpg")
    listing = list_folder(tmp_path, 0.5)
    assert len(listing.classes) == 2
    assert sum(map(len, listing.splits.values())) == 6


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
        (lambda folder: touch(many(folder), "eel/1.jpg"), r"/eel: one image; train and val need"),
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
            lambda folder: (many(folder / "train"), touch(folder, "val/cat/1.jpg")),
            r"/val: has no class 'dog'",
        ),
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
