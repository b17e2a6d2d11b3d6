"""Decoding every image once at packing, so that bad ones are found before any training."""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image

from pipeline.data.store.packing import Sample
from pipeline.data.store.shards import image_extension

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_FOUR_CHANNELS = ("CMYK", "RGBA")


@dataclass(frozen=True)
class DecodedImage:
    """An image with its height and width in pixels, of which `image` may be a smaller version.

    `mode` is Pillow's name of the pixel format: RGB, L (grey) …
    """

    image: Image.Image
    mode: str
    height: int
    width: int


@dataclass(frozen=True)
class Shrinking:
    """Make images smaller at packing: the shorter side, in pixels, and the JPEG quality (1–95)."""

    shorter_side: int
    quality: int


def decode_image(data: bytes, *, at_full_size: bool = False) -> DecodedImage | str:
    """Decode `data`, ignoring its EXIF orientation; return why it is bad if some readers can't.

    Without `at_full_size`, every byte of a JPEG is decoded, but to the brightness at an eighth of
    its size, which is faster and finds the same damage.
    """
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
            return DecodedImage(image, mode, height, width)
    except Exception as error:  # Pillow's parsers raise whatever broken bytes lead them to.
        return f"can't be decoded ({error or type(error).__name__})"


def treat_image(data: bytes, key: str, label: int, shrinking: Shrinking | None = None) -> Sample:
    """Return the image as it is packed: its own bytes wherever all readers agree on them.

    One with four channels (CMYK, or RGB with transparency), on which they don't, becomes an RGB
    PNG, which loses nothing more. With `shrinking`, an image with a larger shorter side becomes a
    JPEG. One that can't be decoded has no data, and its status says why. The EXIF orientation is
    never applied, as in ILSVRC's own evaluation.
    """
    decoded = decode_image(data)
    if isinstance(decoded, str):
        return Sample(key, b"", label, 0, 0, decoded)
    shorter_side = min(decoded.height, decoded.width)
    shrinks = shrinking is not None and shorter_side > shrinking.shorter_side
    orientation = _orientation(decoded.image)
    treatments = [f"EXIF orientation {orientation} not applied"] if orientation != 1 else []
    if decoded.mode not in _FOUR_CHANNELS and not shrinks:
        return Sample(
            key, data, label, decoded.height, decoded.width, treatment="; ".join(treatments)
        )
    decoded = decode_image(data, at_full_size=True)
    assert not isinstance(decoded, str)
    image = decoded.image
    if image.mode in _FOUR_CHANNELS:
        treatments.append(f"{image.mode} to RGB, PNG")
        image = image.convert("RGB")
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
    orientation: int = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation


def _readers_disagree(image: Image.Image) -> bool:
    # Pillow rotates TIFFs with an orientation tag and DALI doesn't; DALI reads no bitmaps.
    return _orientation(image) != 1 or image.mode in {"1", "I", "F"}
