"""Preparing from end to end: real image files, good and bad, asked for once and again."""

import errno
import io
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from intact import is_intact
from PIL import Image
from sklearn.datasets import load_sample_images
from typer.testing import CliRunner

from pipeline.cli.commands import app
from pipeline.data.sources.folder import list_folder
from pipeline.data.sources.naming import PUBLISHED
from pipeline.data.sources.prepare import (
    Prepared,
    prepare_digits,
    prepare_folder,
    prepare_listing,
    prepare_mnist1d,
)
from pipeline.data.store.image_check import Shrinking, decode_image, treat_image
from pipeline.data.store.store import Store
from pipeline.results.published import published
from pipeline.runtime.errors import UserError


def no_progress(done: int, total: int) -> None:
    pass


def encode(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image or picture()).save(buffer, kind, **options)
    return buffer.getvalue()


def picture(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of ten JPEGs: crops of the two photographs that scikit-learn ships."""
    folder = tmp_path / "images"
    for name, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(photo[20 * i : 20 * i + 50, : 60 + i]).save(folder / name / f"{i}.jpg")
    return folder


def prepare(images: Path, name: str = "photos", **options: Any) -> Prepared:
    settings = {"val_share": 0.2, "on_bad": "stop", "num_workers": 0, "progress": no_progress}
    to = options.pop("to", images.parent / "packed")
    return prepare_folder(images, to, name, **{**settings, **options})


def test_a_folder_is_packed_as_it_is(images: Path) -> None:
    calls: list[tuple[int, int]] = []
    prepared = prepare(images, progress=lambda *done: calls.append(done))
    store = prepared.store
    assert (store.name, prepared.already_there, prepared.store.num_quarantined) == (
        "photos",
        False,
        0,
    )
    assert [c.name for c in store.classes] == ["china", "flower"]
    total = sum(path.stat().st_size for path in images.glob("*/*.jpg"))
    assert (calls[0], calls[-1]) == ((0, total), (total, total))
    assert sum(len(store.split(name)) for name in store.split_names) == 20
    for name in store.split_names:
        split = store.split(name)
        for i, key in enumerate(split.keys):
            assert split.encoded(i).tobytes() == (images / f"{key}.jpg").read_bytes()
            assert key.startswith(store.classes[split.labels[i]].name)
            assert split.sizes[i].tolist() == [50, 60 + int(key[-1])]
    assert is_intact(store)


def test_preparing_again_writes_nothing(images: Path) -> None:
    store = prepare(images).store
    before = {path: path.stat().st_mtime_ns for path in store.folder.iterdir()}
    again = prepare(images)
    assert again.already_there
    assert again.store.digest == store.digest
    assert {path: path.stat().st_mtime_ns for path in store.folder.iterdir()} == before


def change_an_image(images: Path) -> None:
    (images / "china" / "3.jpg").write_bytes(encode("JPEG"))


@pytest.mark.parametrize(
    "other",
    [
        lambda images: (change_an_image(images), prepare(images)),
        lambda images: prepare(images, val_share=0.3),
        lambda images: prepare(images, "other name"),
        lambda images: prepare_digits(images.parent / "packed", no_progress),
    ],
)
def test_another_data_set_is_left_alone(images: Path, other: Callable[[Path], object]) -> None:
    store = prepare(images).store
    with pytest.raises(UserError, match=r"of another source or other options; .* --to"):
        other(images)
    assert is_intact(Store.open(store.folder))
    assert Store.open(store.folder).digest == store.digest


def test_a_folder_of_something_else_is_left_alone(images: Path) -> None:
    notes = images.parent / "packed" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    with pytest.raises(UserError, match="not a packed data set"):
        prepare(images)
    assert notes.read_text() == "mine"


def test_digits_are_packed_once(tmp_path: Path) -> None:
    first = prepare_digits(tmp_path / "data" / "digits", no_progress)
    assert not first.already_there
    assert prepare_digits(tmp_path / "data" / "digits", no_progress).already_there


@pytest.mark.parametrize(
    ("name", "pack"), [("digits", prepare_digits), ("mnist1d", prepare_mnist1d)]
)
def test_the_help_names_the_splits_that_are_packed(
    name: str, pack: Callable[..., Prepared], tmp_path: Path
) -> None:
    store = pack(tmp_path / name, no_progress).store
    help_text = CliRunner().invoke(app, ["prepare", name, "--help"]).output
    splits = ", ".join(f"{len(store.split(split)):,} as {split}" for split in store.split_names)
    assert splits in " ".join(help_text.split())


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("zero.jpg", b"", "zero bytes"),
        ("text.jpg", b"<html>Not Found</html>", "not an image; only JPEG, PNG"),
        ("anim.jpg", encode("GIF", picture("P")), "a GIF; only JPEG, PNG"),
        ("half.jpg", encode("JPEG")[:900], "can't be decoded"),
        ("head.jpg", encode("JPEG")[:30], "can't be decoded"),
        ("no-end.jpg", encode("JPEG")[:-30], "can't be decoded"),
        ("cut.png", encode("PNG")[:-200], "can't be decoded"),
        ("flipped.png", encode("PNG")[:300] + b"\0" * 99 + encode("PNG")[399:], "can't be decoded"),
        ("turned.tif", encode("TIFF", exif=turned()), "turned by a tag; save it as PNG"),
        ("bitmap.tif", encode("TIFF", picture("1")), "a TIFF of mode 1"),
    ],
)
def test_a_bad_image_stops_or_is_quarantined(
    images: Path, name: str, data: bytes, reason: str
) -> None:
    (images / "china" / name).write_bytes(data)
    with pytest.raises(UserError, match=rf"china/{name}: .*{reason}.* --on-bad quarantine"):
        prepare(images)
    assert sorted(path.name for path in images.parent.iterdir()) == [".packed.partial", "images"]

    prepared = prepare(images, on_bad="quarantine")
    assert prepared.store.num_quarantined == 1
    splits = [prepared.store.split(name) for name in prepared.store.split_names]
    assert sum(map(len, splits)) == 20
    assert not any(f"china/{Path(name).stem}" in split.keys for split in splits)
    with pytest.raises(UserError, match="is there already, without 1 bad images; add --on-bad"):
        prepare(images)


def test_a_bad_image_does_not_change_the_digest_from_one_packing_to_the_next(images: Path) -> None:
    (images / "china" / "cut.jpg").write_bytes(encode("JPEG")[:20])
    places = (images.parent / "one", images.parent / "two")
    stores = [prepare(images, to=place, on_bad="quarantine").store for place in places]
    assert stores[0].num_quarantined == 1
    assert stores[0].digest == stores[1].digest


def test_bad_images_of_both_splits_are_listed(images: Path) -> None:
    bad = sorted(images.glob("*/[1-4].jpg"))
    for path in bad:
        path.write_bytes(b"")
    to = images.parent / "packed"
    command = ["prepare", "folder", str(images), "--to", str(to), "--workers", "0", "--list-bad"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    printed = done.output.replace("\n", "")
    for path in bad:
        assert f"{path}: zero bytes" in printed
    assert "8 bad images; nothing was packed" in printed
    assert [path.name for path in images.parent.iterdir()] == ["images"]
    for path in bad:
        path.unlink()
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, "0 bad images" in done.output) == (0, True)


def test_the_command_names_what_is_left_out(images: Path) -> None:
    (images / "china" / "cut.jpg").write_bytes(encode("JPEG")[:20])
    (images / ".DS_Store").write_bytes(b"")
    options = ["--to", str(images.parent / "packed"), "--workers", "0", "--on-bad", "quarantine"]
    done = CliRunner().invoke(app, ["prepare", "folder", str(images), *options])
    assert done.exit_code == 0, done.output
    printed = " ".join(done.output.split())
    assert "note: left out: .DS_Store" in printed
    assert re.search(r"left out: (train|val): china/cut: can't be decoded", printed)
    assert re.search(r"packed: \d+ train, \d+ val images, 1 left out, 2 classes", printed)


def test_the_first_bad_image_stops_and_finished_parts_stay(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards of some 8 images; the image before the last is bad, and then removed."""
    bad = images / "flower" / "8.jpg"
    good = bad.read_bytes()
    bad.write_bytes(good[:300])
    decoded: list[str] = []

    def counted(data: bytes, key: str, *others: Any) -> Any:
        decoded.append(key)
        return treat_image(data, key, *others)

    monkeypatch.setattr("pipeline.data.store.parallel_packing.treat_image", counted)
    listing = list_folder(images, 0.2)
    packing = {"on_bad": "stop", "num_workers": 0, "progress": no_progress, "shard_bytes": 6_000}
    to = images.parent / "packed"
    with pytest.raises(UserError, match=r"flower/8.jpg: can't be decoded"):
        prepare_listing(listing, to, "photos", **packing)  # type: ignore[arg-type]
    assert "flower/9" not in decoded
    first, num_decoded = set(decoded), len(decoded)
    decoded.clear()
    bad.unlink()
    store = prepare_listing(list_folder(images, 0.2), to, "photos", **packing).store  # type: ignore[arg-type]
    assert first - set(decoded)  # what was finished was not decoded again
    assert len(decoded) < 19
    assert num_decoded > len(decoded) - 5
    assert is_intact(store)
    assert sum(len(store.split(name)) for name in store.split_names) == 19
    again = prepare_listing(list_folder(images, 0.2), to.with_name("b"), "photos", **packing)  # type: ignore[arg-type]
    assert again.store.digest == store.digest
    assert again.store._files == store._files


def test_an_image_that_changes_between_two_tries_is_packed_again(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size and its time count, also for a shard that was finished."""
    (images / "flower" / "8.jpg").write_bytes(b"")
    packing = {"on_bad": "stop", "num_workers": 0, "progress": no_progress, "shard_bytes": 6_000}
    to = images.parent / "packed"
    with pytest.raises(UserError, match=r"flower/8.jpg: zero bytes"):
        prepare_listing(list_folder(images, 0.2), to, "photos", **packing)  # type: ignore[arg-type]
    change_an_image(images)
    (images / "flower" / "8.jpg").unlink()
    store = prepare_listing(list_folder(images, 0.2), to, "photos", **packing).store  # type: ignore[arg-type]
    split = next(store.split(n) for n in store.split_names if "china/3" in store.split(n).keys)
    packed = split.encoded(split.keys.index("china/3")).tobytes()
    assert packed == (images / "china" / "3.jpg").read_bytes()


@pytest.mark.parametrize("name", ["ilsvrc2012", "mnist", "CIFAR10"])
def test_a_folder_may_not_take_a_published_name(name: str, images: Path) -> None:
    prepared = prepare(images, name, to=images.parent / name)
    assert prepared.store.name == f"{name}-unverified"
    assert prepared.notes == (
        f"called '{name}-unverified': '{name}' is a name of published results, which only files of "
        "known digests get",
    )
    assert prepare(images, name, to=images.parent / name).already_there


def test_the_published_names_are_those_of_the_published_results() -> None:
    assert {result.training_data for result in published()} <= PUBLISHED


def test_nothing_but_bad_images_is_no_data_set(images: Path) -> None:
    for path in images.glob("*/*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="split 'train' would have no images"):
        prepare(images, on_bad="quarantine")


@pytest.mark.parametrize(
    "data",
    [
        encode("JPEG", picture("CMYK")),
        encode("JPEG", picture("L")),
        encode("JPEG", progressive=True),
        encode("JPEG", exif=turned()),
        encode("JPEG") + b"trailing junk",
        encode("PNG", picture("LA")),
        encode("PNG", picture("P")),
        encode("WEBP"),
        encode("BMP"),
        encode("TIFF"),
    ],
    ids=["cmyk", "gray", "progressive", "turned", "junk", "LA", "palette", "webp", "bmp", "tiff"],
)
def test_odd_but_good_images_are_accepted_without_rotation(data: bytes) -> None:
    decoded = decode_image(data)
    assert not isinstance(decoded, str)
    assert (decoded.height, decoded.width) == (40, 60)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_of_gray_are_rounded_to_8_when_made_smaller(kind: str) -> None:
    # A ramp from black over 80 to 250, in units of 257.
    ramp = np.interp(np.arange(200), [0, 100, 199], [0, 80, 250])
    deep = Image.fromarray(np.tile(ramp * 257, (100, 1)).astype(np.uint16))
    sample = treat_image(encode(kind, deep), "key", 0, Shrinking(50, 95))
    small = Image.open(io.BytesIO(sample.data))
    assert (small.mode, small.size, small.format) == ("L", (100, 50), "JPEG")
    pixels = np.asarray(small)[25]
    assert np.abs(pixels - ramp.reshape(100, 2).mean(1)).max() < 4


def test_a_decompression_bomb_is_bad(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "decompression bomb" in decode_image(encode("BMP", picture().resize((60, 60))))
        assert "decompression bomb" in decode_image(encode("PNG", picture().resize((90, 90))))
    prepared = prepare(images, on_bad="quarantine")
    # Widths go from 60 to 69, all 50 high.
    assert prepared.store.num_quarantined == 6


def test_a_file_that_disappears_is_not_called_a_bad_image(images: Path) -> None:
    last = images / "flower" / "9.jpg"
    for i in range(100):
        (images / "china" / f"more-{i:03d}.jpg").write_bytes(encode("JPEG"))

    def remove(done: int, total: int) -> None:
        last.unlink(missing_ok=True)

    to = images.parent / "packed"
    reason = re.escape(os.strerror(errno.ENOENT))
    with pytest.raises(UserError, match=rf"9.jpg: can't be read \({reason}\)"):
        prepare(images, on_bad="quarantine", progress=remove)
    assert not to.exists()


@pytest.mark.parametrize("on_bad", ["ignore", ""])
def test_on_bad_must_be_stop_or_quarantine(images: Path, on_bad: str) -> None:
    with pytest.raises(UserError, match="must be stop or quarantine"):
        prepare(images, on_bad=on_bad)


def test_a_target_inside_the_images_folder_is_refused(images: Path) -> None:
    with pytest.raises(UserError, match="lies in the folder of images itself"):
        prepare(images, to=images / "packed")
