"""Decoding every image once at packing, so that bad ones are found before any training."""

import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image, ImageCms

from pipeline.data.store.packing import Sample
from pipeline.data.store.shards import image_extension

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_READ = "only JPEG, PNG, WebP, BMP and TIFF are read"
# What people have under other names, by the first bytes.
_OTHERS = {
    rb"GIF8": "a GIF",
    rb"....ftyp(heic|heix|mif1|msf1)": "a HEIC",
    rb"....ftypavi[fs]": "an AVIF",
    rb"(\xff\x0a|....JXL )": "a JPEG XL",
    rb"(\xff\x4f\xff\x51|....jP  )": "a JPEG 2000",
    rb"(II\+\x00|MM\x00\+)": "a BigTIFF",
}
_CONVERTED = ("CMYK", "RGBA", "LAB", "YCbCr")
_TIFF_MODES = ("L", "RGB", "I;16")
_TIFF_COMPRESSIONS = ("raw", "tiff_lzw", "tiff_adobe_deflate")
# Pillow refuses larger texts and profiles as bombs; without them a PNG shows the same picture.
_LARGEST_PNG_METADATA = 2**20
_PNG_METADATA = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf")


@dataclass(frozen=True)
class DecodedImage:
    """An image with its height and width in pixels, of which `image` may be a smaller version.

    `mode` is Pillow's name of the pixel format: RGB, L (grey) … `is_plain`: of a kind that all
    readers show alike.
    """

    image: Image.Image
    mode: str
    height: int
    width: int
    is_plain: bool = True


@dataclass(frozen=True)
class Shrinking:
    """Make images smaller at packing: the shorter side, in pixels, and the JPEG quality (1–95)."""

    shorter_side: int
    quality: int


@contextmanager
def pillows_warnings_ignored() -> Iterator[None]:
    """Silence Pillow on odd metadata, which isn't read here, and on sizes that are refused.

    Not for threads: the filters of warnings are the process's.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode_image(data: bytes, *, at_full_size: bool = False) -> DecodedImage | str:
    """Decode `data`, ignoring its EXIF orientation; return why it is bad if some readers can't.

    Without `at_full_size`, every byte of a JPEG is decoded, but to the brightness at an eighth of
    its size, which is faster and finds the same damage. The reasons are this function's own words:
    they enter the data set's digest, and an exception's differ from one process to another.
    """
    if not data:
        return "zero bytes"
    if image_extension(data) is None:
        kinds = (kind for start, kind in _OTHERS.items() if re.match(start, data, re.DOTALL))
        return f"{next(kinds, 'not an image')}; {_READ}"
    limit = Image.MAX_IMAGE_PIXELS or 0
    bomb = f"more than {limit:,} pixels, could be a decompression bomb"
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            if limit and image.width * image.height > limit:
                return bomb
            if image.format == "TIFF" and _readers_disagree(image):
                return f"a TIFF of mode {image.mode} or turned by a tag; save it as PNG"
            mode, (width, height) = image.mode, image.size
            if not at_full_size:
                eighth = (max(1, width // 8), max(1, height // 8))
                image.draft("L", eighth)  # JPEG only; others stay as they are
            is_plain = mode not in _CONVERTED and _is_plain(image, data)
            image.load()
            return DecodedImage(image, mode, height, width, is_plain)
    except Image.DecompressionBombError:
        return bomb
    except Exception:  # Pillow's parsers raise whatever broken bytes lead them to.
        return "can't be decoded: damaged, cut short, or of a rare kind"


def treat_image(data: bytes, key: str, label: int, shrinking: Shrinking | None = None) -> Sample:
    """Return the image as it is packed: its own bytes wherever all readers agree on them.

    One on which they don't (of four channels, as CMYK or RGB with transparency; a rare TIFF or BMP;
    a lossless WebP with metadata) becomes a PNG, which loses nothing more. With `shrinking`, an
    image with a larger shorter side becomes a JPEG. One that can't be decoded has no data, and its
    status says why. The EXIF orientation is never applied, as in ILSVRC's own evaluation.
    """
    lean = _without_large_metadata(data)
    treatments = ["large metadata removed"] if len(lean) < len(data) else []
    data = lean
    decoded = decode_image(data)
    if isinstance(decoded, str):
        return Sample(key, b"", label, 0, 0, decoded)
    shorter_side = min(decoded.height, decoded.width)
    shrinks = shrinking is not None and shorter_side > shrinking.shorter_side
    orientation = _orientation(decoded.image)
    if orientation != 1:
        treatments.append(f"EXIF orientation {orientation} not applied")
    if decoded.is_plain and not shrinks:
        return Sample(
            key, data, label, decoded.height, decoded.width, treatment="; ".join(treatments)
        )
    decoded = decode_image(data, at_full_size=True)
    assert not isinstance(decoded, str)
    image = decoded.image
    if not decoded.is_plain:
        mode = image.mode if image.mode in ("1", "L", "I;16") else "RGB"
        kind = image.format if mode == image.mode else f"{image.mode} to {mode}"
        treatments.append(f"{kind}, PNG" if mode != decoded.mode else f"{kind} to PNG")
        image = _from_lab(image) if image.mode == "LAB" else image.convert(mode)
        data = _encoded(image, "PNG")
    if shrinking is not None and shrinks:
        side = shrinking.shorter_side
        size = (image.width * side // shorter_side, image.height * side // shorter_side)
        image = in_8_bits(image)
        mode = image.mode if image.mode in ("L", "RGB") else "RGB"
        image = image.convert(mode).resize(size, Image.Resampling.BILINEAR)
        treatments.append(f"shorter side to {side}, JPEG of quality {shrinking.quality}")
        data = _encoded(image, "JPEG", quality=shrinking.quality)
    return Sample(key, data, label, image.height, image.width, treatment="; ".join(treatments))


def in_8_bits(image: Image.Image) -> Image.Image:
    """Return `image` with 16-bit grey values rounded to 8 bits; Pillow would clip them at 255."""
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1, upright, where the EXIF data are broken."""
    try:
        orientation: object = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as for `decode_image`
        return 1
    return orientation if isinstance(orientation, int) else 1


def _is_plain(image: Image.Image, data: bytes) -> bool:
    """Whether DALI and Pillow read an image of `_FORMATS` alike, but for its mode."""
    match image.format:
        case "WEBP":  # DALI can't read a lossless one that has metadata.
            return not (data[12:16] == b"VP8X" and b"VP8L" in _webp_chunks(data))
        case "TIFF":
            compression = image.info.get("compression")
            return image.mode in _TIFF_MODES and compression in _TIFF_COMPRESSIONS
        case "BMP":
            return not image.info.get("compression")
    return True


def _webp_chunks(data: bytes) -> list[bytes]:
    names, position = [], 12
    while position + 8 <= len(data):
        names.append(data[position : position + 4])
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + size + size % 2
    return names


def _without_large_metadata(data: bytes) -> bytes:
    """Return a PNG without its texts, profile and EXIF data where one of these is large."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    kept, largest, position = [data[:8]], 0, 8
    while position + 12 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        chunk = data[position : position + 12 + size]
        if chunk[4:8] in _PNG_METADATA:
            # Compressed ones say nothing of their size.
            largest = max(largest, size, _unpacked_size(chunk))
        else:
            kept.append(chunk)
        position += 12 + size
    kept.append(data[position:])
    return b"".join(kept) if largest > _LARGEST_PNG_METADATA else data


def _unpacked_size(chunk: bytes) -> int:
    """Return the size of a compressed text or profile, or `_LARGEST_PNG_METADATA` + 1 at most."""
    start = chunk.find(b"\x78", 8)  # zlib's first byte, after the keyword
    if chunk[4:8] == b"tEXt" or start < 0:
        return 0
    try:
        return len(zlib.decompressobj().decompress(chunk[start:-4], _LARGEST_PNG_METADATA + 1))
    except zlib.error:
        return 0


def _from_lab(image: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
    assert converted is not None  # only in place there is no result
    return converted


def _readers_disagree(image: Image.Image) -> bool:
    # Pillow rotates TIFFs with an orientation tag and DALI doesn't; DALI reads no bitmaps.
    return _orientation(image) != 1 or image.mode in {"1", "I", "F"}
