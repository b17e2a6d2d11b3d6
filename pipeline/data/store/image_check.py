"""Encoded images as samples, each decoded once, so that no training meets a bad one."""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image

from pipeline.data.store.packing import Sample
from pipeline.data.store.shards import image_extension

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_FOUR_CHANNELS = ("CMYK", "RGBA")


@dataclass(frozen=True)
class Checked:
    """What a full decode found: height and width in pixels (0 when bad), "ok" or the reason.

    `mode` is Pillow's name of the pixels' kind: RGB, L (grey) …
    """

    height: int
    width: int
    status: str
    mode: str = ""


@dataclass(frozen=True)
class Shrinking:
    """Make images smaller at packing: the shorter side, in pixels, and the JPEG quality (1–95)."""

    shorter_side: int
    quality: int


def check_image(data: bytes) -> Checked:
    """Decode `data`, without its EXIF orientation, and say whether all readers can.

    Every byte of a JPEG is decoded, but to the brightness of an eighth of its pixels, which is
    faster and finds the same damage.
    """
    opened = _opened(data, at_full_size=False)
    if isinstance(opened, str):
        return Checked(0, 0, opened)
    return Checked(opened.height, opened.width, "ok", opened.mode)


def treat_image(data: bytes, key: str, label: int, shrinking: Shrinking | None = None) -> Sample:
    """Return the image as it is packed: its own bytes wherever all readers agree on them.

    One of four colours (CMYK, or RGB with transparency), on which they don't, becomes an RGB PNG,
    which loses nothing more. With `shrinking`, an image with a larger shorter side becomes a JPEG.
    One that can't be read has no data, and its status says why. The orientation in EXIF data is
    never applied, as ILSVRC's own evaluation doesn't.
    """
    opened = _opened(data, at_full_size=False)
    if isinstance(opened, str):
        return Sample(key, b"", label, 0, 0, opened)
    shortest = min(opened.height, opened.width)
    shrinks = shrinking is not None and shortest > shrinking.shorter_side
    turn = opened.image.getexif().get(ExifTags.Base.Orientation, 1)
    treatments = [f"EXIF orientation {turn} not applied"] if turn != 1 else []
    if opened.mode not in _FOUR_CHANNELS and not shrinks:
        return Sample(
            key, data, label, opened.height, opened.width, treatment="; ".join(treatments)
        )
    opened = _opened(data, at_full_size=True)
    assert not isinstance(opened, str)
    image = opened.image
    if image.mode in _FOUR_CHANNELS:
        treatments.append(f"{image.mode} to RGB, PNG")
        image = image.convert("RGB")
        data = _encoded(image, "PNG")
    if shrinking is not None and shrinks:
        side = shrinking.shorter_side
        size = (image.width * side // shortest, image.height * side // shortest)
        image = in_8_bits(image)
        mode = image.mode if image.mode in ("L", "RGB") else "RGB"
        image = image.convert(mode).resize(size, Image.Resampling.BILINEAR)
        treatments.append(f"shorter side to {side}, JPEG of quality {shrinking.quality}")
        data = _encoded(image, "JPEG", quality=shrinking.quality)
    return Sample(key, data, label, image.height, image.width, treatment="; ".join(treatments))


def in_8_bits(image: Image.Image) -> Image.Image:
    """Return `image`, 16 bits of gray rounded to 8; Pillow itself would cut them off at 255."""
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))


@dataclass(frozen=True)
class _Opened:
    """A decoded image; its mode, height and width in pixels, of which it may show less."""

    image: Image.Image
    mode: str
    height: int
    width: int


def _opened(data: bytes, *, at_full_size: bool) -> _Opened | str:
    """Return the decoded image, or why it is bad."""
    if not data:
        return "zero bytes"
    if image_extension(data) is None:
        kind = "a GIF" if data.startswith(b"GIF8") else "not an image"
        return f"{kind}; only JPEG, PNG, WebP, BMP and TIFF are read"
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit and image.width * image.height > limit:
                return f"more than {limit:,} pixels, could be a decompression bomb"
            if image.format == "TIFF" and _readers_disagree(image):
                return f"a TIFF of mode {image.mode} or turned by a tag; save it as PNG"
            mode, (width, height) = image.mode, image.size
            if not at_full_size:
                image.draft("L", (width // 8, height // 8))  # JPEG only; others stay as they are
            image.load()
            return _Opened(image, mode, height, width)
    except Exception as error:  # Pillow's parsers raise whatever broken bytes lead them to.
        return f"can't be decoded ({error or type(error).__name__})"


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _readers_disagree(image: Image.Image) -> bool:
    # Of TIFFs, Pillow turns those with an orientation tag and DALI doesn't; DALI reads no bitmaps.
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation != 1 or image.mode in {"1", "I", "F"}
