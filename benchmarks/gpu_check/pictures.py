"""Pictures for the check, drawn here: neither data nor photographs are at hand on a bare machine.

Soft structure of all sizes, edges, and some noise, so that the JPEGs are as large as photographs'.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.packing import Sample, write_store
from pipeline.data.store.store import Split, Store

NUM_CLASSES = 10
_SIDES = (375, 500)  # ImageNet's usual image
_UPRIGHT_SHARE = 0.25
_FOUR_BY_ONE = 0x41  # sampling factors, columns and rows


def write_pictures(folder: Path, num_images: int, sides: tuple[int, int] = _SIDES) -> Split:
    """Pack `num_images` different JPEGs into `folder`."""
    return _write(folder, _pictures(num_images, sides))


def write_encodings(folder: Path, sides: tuple[int, int] = _SIDES) -> Split:
    """Pack one picture in every encoding that decoders treat in their own way, named by its key."""
    image = Image.fromarray(_picture(np.random.default_rng(1), *sides))
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    files = {
        "4:2:0": _encoded(image, subsampling="4:2:0"),
        "4:2:2": _encoded(image, subsampling="4:2:2"),
        "4:4:4": _encoded(image, subsampling="4:4:4"),
        "4:1:1": _quarter_chroma(image),
        "gray": _encoded(image.convert("L")),
        "progressive": _encoded(image, progressive=True),
        "restarts": _encoded(image, restart_marker_rows=1),
        "turned": _encoded(image, exif=turned),
        "cmyk": _encoded(image.convert("CMYK")),
        "png": _encoded(image, "PNG"),
    }
    return _write(folder, (Sample(key, data, 0, *sides) for key, data in files.items()))


def write_truncated(folder: Path, sides: tuple[int, int] = _SIDES) -> Split:
    """Pack a few pictures, the second of which ends in its middle."""
    samples = list(_pictures(4, sides))
    whole = samples[1]
    half = whole.data[: len(whole.data) // 2]
    samples[1] = Sample(whole.key, half, whole.label, whole.height, whole.width)
    return _write(folder, iter(samples))


def open_pictures(folder: Path) -> Split:
    """Open what was packed into `folder`."""
    return Store.open(folder).split("train")


def _write(folder: Path, samples: Iterator[Sample]) -> Split:
    classes = [ImageClass(index, str(index)) for index in range(NUM_CLASSES)]
    source = {"kind": "drawn"}
    write_store(folder, name="pictures", classes=classes, splits={"train": samples}, source=source)
    return open_pictures(folder)


def _pictures(num_images: int, sides: tuple[int, int]) -> Iterator[Sample]:
    random = np.random.default_rng(0)
    for number in range(num_images):
        height, width = (int(side * random.uniform(0.94, 1.06)) for side in sides)
        if random.random() < _UPRIGHT_SHARE:
            height, width = width, height
        image = Image.fromarray(_picture(random, height, width))
        yield Sample(f"{number:06d}", _encoded(image), number % NUM_CLASSES, height, width)


def _picture(random: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Return a picture, uint8 (height, width, 3)."""
    total = np.zeros((height, width, 3), dtype=np.float32)
    for cells in (2, 4, 8, 16, 32, 64):
        coarse = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        soft = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(soft, dtype=np.float32) / cells**0.7
    total *= 255 / total.max()
    for _ in range(6):
        y, x = int(random.integers(height)), int(random.integers(width))
        total[y : y + height // 4, x : x + width // 5] = random.integers(0, 256, 3)
    total += random.normal(0, 12, total.shape).astype(np.float32)
    return total.clip(0, 255).astype(np.uint8)


def _encoded(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    quality = {"quality": 90} if format == "JPEG" else {}
    image.save(buffer, format, **quality, **options)
    return buffer.getvalue()


def _quarter_chroma(image: Image.Image) -> bytes:
    """Return a JPEG whose chroma has a quarter of the columns (4:1:1), which Pillow can't write.

    Each component is written as a gray image. Their scans, which share quantization and Huffman
    tables, then follow one another in one file (ITU-T T.81, §4.8: not interleaved).
    """
    planes = image.convert("YCbCr").split()
    quarter = (-(-image.width // 4), image.height)
    small = [plane.resize(quarter, Image.Resampling.BOX) for plane in planes[1:]]
    parts = [_segments(_encoded(plane)) for plane in (planes[0], *small)]
    tables = b"".join(data for kind, data in parts[0] if kind in (0xDB, 0xC4))
    (frame,) = (data for kind, data in parts[0] if kind == 0xC0)
    # Precision, height and width stay; then identifier, sampling and quantization table of each.
    components = b"".join(
        bytes([number, _FOUR_BY_ONE if number == 1 else 0x11, 0]) for number in (1, 2, 3)
    )
    frame = frame[:2] + (8 + len(components)).to_bytes(2) + frame[4:9] + b"\3" + components
    scans = b"".join(
        b"\xff\xda\0\x08\1" + bytes([number, 0]) + b"\0\x3f\0" + dict(part)[0xDA]
        for number, part in enumerate(parts, 1)
    )
    return b"\xff\xd8" + tables + frame + scans + b"\xff\xd9"


def _segments(jpeg: bytes) -> list[tuple[int, bytes]]:
    """Return the segments of a JPEG by kind, with marker and length; of a scan its data alone."""
    segments: list[tuple[int, bytes]] = []
    place = 2
    while True:
        kind, length = jpeg[place + 1], int.from_bytes(jpeg[place + 2 : place + 4])
        end = place + 2 + length
        if kind == 0xDA:
            return [*segments, (kind, jpeg[end:-2])]
        segments.append((kind, jpeg[place:end]))
        place = end
