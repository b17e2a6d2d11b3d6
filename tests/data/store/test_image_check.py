"""Odd files as cameras and editors write them: packed so that all readers agree, or named."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin
from sklearn.datasets import load_sample_images

from pipeline.data.store.image_check import decode_image, treat_image
from pipeline.data.store.packing import Sample

PHOTO = Image.fromarray(load_sample_images().images[0][100:172, 100:196])


def encode(kind: str, image: Image.Image = PHOTO, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_exif(data: bytes, payload: bytes) -> bytes:
    """Return a JPEG with an APP1 segment of `payload` after its JFIF header."""
    segment = b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload
    return data[:20] + segment + data[20:]


def with_chunk(data: bytes, name: bytes, payload: bytes) -> bytes:
    chunk = struct.pack(">I", len(payload)) + name + payload
    return data[:33] + chunk + struct.pack(">I", zlib.crc32(name + payload)) + data[33:]


def exif(**tags: str) -> bytes:
    made = Image.Exif()
    made[0x0112] = 1
    for number, value in tags.items():
        made[int(number.removeprefix("tag"), 16)] = value
    return made.tobytes()


JPEG, PNG = encode("JPEG", quality=90, dpi=(72, 72)), encode("PNG")
BROKEN_EXIF = {
    "blank": with_exif(JPEG, b"Exif\0\0"),
    "garbage": with_exif(JPEG, b"Exif\0\0\0\x08\0\x02\x01\x12\0\x03"),
    "doubled": with_exif(JPEG, b"Exif\0\0Exif\0\0II*\0\x08\0\0\0\0\0"),
    "cut": with_exif(JPEG, b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01\0"),
    "far": with_exif(JPEG, b"Exif\0\0II*\0\xff\xff\xff\x7f"),
    "bigtiff": with_exif(JPEG, b"Exif\0\0II\x2b\0\x08\0\0\0\x10\0\0\0"),
    "text": with_exif(JPEG, b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0006\0\0\0"),
    "xmp": with_exif(JPEG, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><broken"),
    "png": with_chunk(PNG, b"eXIf", b"\0\x08\0\x02\x01\x12\0\x03"),
    "png-profile": with_chunk(PNG, b"tEXt", b"Raw profile type exif\0\nexif\n   8\nzzzz\n"),
    "webp": encode("WEBP", quality=90, exif=b"Exif\0\0nonsense"),
}


@pytest.mark.parametrize("name", BROKEN_EXIF)
def test_broken_exif_data_decide_nothing(name: str) -> None:
    data = BROKEN_EXIF[name]
    sample = treat_image(data, "key", 3)
    assert sample == Sample("key", data, 3, PHOTO.height, PHOTO.width)


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (2000, 3), (7, 7)])
def test_sides_below_eight_pixels_are_fine(size: tuple[int, int]) -> None:
    data = encode("JPEG", PHOTO.resize(size))
    assert treat_image(data, "key", 0) == Sample("key", data, 0, size[1], size[0])


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
TURNED = Image.Exif()
TURNED[0x0112] = 6


@pytest.mark.parametrize(
    ("data", "treatment"),
    [
        (encode("WEBP", lossless=True, exif=exif()), "WEBP to PNG"),
        (encode("WEBP", lossless=True, exif=exif(tag010e="x" * 501)), "WEBP to PNG"),
        (encode("WEBP", lossless=True, icc_profile=SRGB), "WEBP to PNG"),
        (encode("WEBP", lossless=True, xmp=b"<x:xmpmeta/>"), "WEBP to PNG"),
        (
            encode("WEBP", lossless=True, exif=TURNED.tobytes()),
            "EXIF orientation 6 not applied; WEBP to PNG",
        ),
        (encode("TIFF", compression="jpeg", quality=100), "TIFF to PNG"),
        (encode("TIFF", PHOTO.quantize(256)), "P to RGB, PNG"),
    ],
)
def test_kinds_that_readers_disagree_on_become_png(data: bytes, treatment: str) -> None:
    sample = treat_image(data, "key", 0)
    assert (sample.status, sample.treatment) == ("ok", treatment)
    packed, source = Image.open(io.BytesIO(sample.data)), Image.open(io.BytesIO(data))
    assert (packed.format, packed.mode) == ("PNG", "RGB")
    assert np.array_equal(np.asarray(packed), np.asarray(source.convert("RGB")))


@pytest.mark.parametrize(
    "data",
    [
        encode("WEBP", lossless=True),
        encode("WEBP", quality=90, exif=exif(), icc_profile=SRGB),
        encode("TIFF"),
        encode("TIFF", PHOTO.convert("L"), compression="tiff_lzw"),
        encode("TIFF", compression="tiff_adobe_deflate"),
        encode("BMP"),
        encode("PNG", PHOTO.quantize(16), bits=4),
    ],
)
def test_what_all_readers_agree_on_keeps_its_bytes(data: bytes) -> None:
    sample = treat_image(data, "key", 0)
    assert (sample.data, sample.treatment) == (data, "")


def test_a_lab_tiff_keeps_its_colours() -> None:
    profiles = (ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"))
    lab = ImageCms.applyTransform(PHOTO, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    sample = treat_image(encode("TIFF", lab), "key", 0)
    assert sample.treatment == "LAB to RGB, PNG"
    packed = np.asarray(Image.open(io.BytesIO(sample.data)), dtype=float)
    assert np.abs(packed - np.asarray(PHOTO)).mean() < 2


@pytest.mark.parametrize("kind", ["text", "profile"])
def test_a_png_loses_metadata_that_readers_take_for_a_bomb(kind: str) -> None:
    if kind == "text":
        info = PngImagePlugin.PngInfo()
        info.add_text("comment", "x" * 2_000_000, zip=True)
        data = encode("PNG", pnginfo=info)
    else:
        data = encode("PNG", icc_profile=b"\x55" * 2_000_000)
    sample = treat_image(data, "key", 0)
    assert (sample.status, sample.treatment) == ("ok", "large metadata removed")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(sample.data))), np.asarray(PHOTO))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (encode("GIF", PHOTO.quantize(64)), "a GIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC"),
        (encode("AVIF"), "an AVIF"),
        (encode("JPEG2000"), "a JPEG 2000"),
        (encode("TIFF", big_tiff=True), "a BigTIFF"),
        (b"<!DOCTYPE html><html>404</html>", "not an image"),
        (encode("PPM"), "not an image"),
    ],
)
def test_other_kinds_are_called_by_name(data: bytes, kind: str) -> None:
    assert decode_image(data) == f"{kind}; only JPEG, PNG, WebP, BMP and TIFF are read"


@pytest.mark.parametrize("data", [JPEG[:20], JPEG[:300], PNG[:200], JPEG[:-100]])
def test_what_is_said_of_a_damaged_file_is_the_same_every_time(data: bytes) -> None:
    """The words enter the data set's digest."""
    expected = "can't be decoded: damaged, cut short, or of a rare kind"
    assert decode_image(data) == decode_image(bytes(data)) == expected
