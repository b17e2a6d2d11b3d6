"""Single images come as they would be packed."""

import io
from pathlib import Path

from PIL import Image

from pipeline.data.sources.loose_images import loose_images
from pipeline.data.store.encoded_images import split_in_memory
from pipeline.data.store.image_check import treat_image


def picture(folder: Path, name: str, mode: str = "RGB") -> bytes:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").resize((40, 30)).convert(mode).save(path)
    return path.read_bytes()


def test_files_folders_and_standard_input_in_their_order(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/c.jpg", ".hidden/d.jpg", "__MACOSX/e.jpg", "Thumbs.db.jpg"):
        picture(tmp_path / "folder", name)
    (tmp_path / "folder" / "Thumbs.db").write_bytes(b"x")
    given = picture(tmp_path, "given.png")
    places = [str(tmp_path / "folder"), "-", str(tmp_path / "given.png"), str(tmp_path / "gone")]
    found = list(loose_images(places, io.BytesIO(given)))
    names = [sample.key.removeprefix(f"{tmp_path}/") for sample in found]
    assert names == [
        "folder/Thumbs.db.jpg", "folder/a/c.jpg", "folder/b.jpg", "-", "given.png", "gone",
    ]  # fmt: skip
    assert [sample.status for sample in found[:-1]] == ["ok"] * 5
    assert found[-1].status == "can't be read (No such file or directory)"
    assert found[3].data == found[4].data == given


def test_four_channels_are_treated_as_at_packing(tmp_path: Path) -> None:
    data = picture(tmp_path, "cmyk.jpg", "CMYK")
    (sample,) = loose_images([str(tmp_path / "cmyk.jpg")], io.BytesIO())
    assert sample.treatment == "CMYK to RGB, PNG"
    assert sample.data == treat_image(data, "any", 0).data
    split = split_in_memory([sample])
    assert split.verified_batch([0])[0].tobytes() == sample.data
    assert split.sizes.tolist() == [[30, 40]]
    assert (split.keys, split.labels.tolist()) == ((sample.key,), [-1])
    assert not split.has_changed(0)
    assert split.location(0).endswith("cmyk.jpg")


def test_a_file_name_that_is_no_text_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "caf\udce9.jpg"  # Latin-1, as old archives have it
    path.write_bytes(picture(tmp_path, "cafe.jpg"))
    (sample,) = loose_images([str(path)], io.BytesIO())
    assert sample.key.endswith("caf_.jpg")
    assert split_in_memory([sample]).keys == (sample.key,)


def test_what_is_no_image_is_not_read_to_its_end(tmp_path: Path) -> None:
    (found,) = loose_images(["/dev/zero"], io.BytesIO())
    assert found.status.startswith("not an image")
