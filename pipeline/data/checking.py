"""Image files as samples, each decoded in full once, so that no training meets a bad one."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import ExifTags, Image

from pipeline.data.packing import Progress, Sample
from pipeline.data.shards import image_extension
from pipeline.errors import UserError

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")


@dataclass(frozen=True)
class ImageFile:
    """A file to pack, and the key and label that it gets."""

    path: Path
    key: str
    label: int


@dataclass(frozen=True)
class Checked:
    """What a full decode found: height and width in pixels (0 when bad), "ok" or the reason."""

    height: int
    width: int
    status: str


def check_image(data: bytes) -> Checked:
    """Decode `data` in full, without its EXIF orientation, and say whether all readers can."""
    if not data:
        return _bad("zero bytes")
    if image_extension(data) is None:
        kind = "a GIF" if data.startswith(b"GIF8") else "not an image"
        return _bad(f"{kind}; only JPEG, PNG, WebP, BMP and TIFF are read")
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit and image.width * image.height > limit:
                return _bad(f"more than {limit:,} pixels, could be a decompression bomb")
            if image.format == "TIFF" and _readers_disagree(image):
                return _bad(f"a TIFF of mode {image.mode} or turned by a tag; save it as PNG")
            image.load()
            return Checked(image.height, image.width, "ok")
    except Exception as error:  # Pillow's parsers raise whatever broken bytes lead them to.
        return _bad(f"can't be decoded ({error or type(error).__name__})")


def read_images(
    splits: Mapping[str, Sequence[ImageFile]], quarantine: bool, progress: Progress
) -> dict[str, Iterator[Sample]]:
    """Return each split's files as samples in their order, read by as many threads as CPUs.

    The splits must be read in their order. With `quarantine`, a bad file is a sample without data
    whose status says why; else the last file is followed by a `UserError` that names the first
    bad one and counts the others.
    """
    total = sum(map(len, splits.values()))
    done = 0
    bad: list[str] = []

    def samples(files: Sequence[ImageFile]) -> Iterator[Sample]:
        nonlocal done
        for file, sample in zip(files, _in_order(_read, files), strict=True):
            done += 1
            progress(done, total)
            if sample.status != "ok":
                bad.append(f"{file.path}: {sample.status}")
            if quarantine or not bad:
                yield sample
            elif done == total:
                more = f" (and {len(bad) - 1} more bad images)" if len(bad) > 1 else ""
                raise UserError(f"{bad[0]}{more}; mend or remove it, or use --on-bad quarantine")

    return {name: samples(files) for name, files in splits.items()}


def _read(file: ImageFile) -> Sample:
    try:
        data = file.path.read_bytes()
    except OSError as error:
        raise UserError(f"{file.path}: can't be read ({error.strerror}); mend that") from None
    checked = check_image(data)
    kept = data if checked.status == "ok" else b""
    return Sample(file.key, kept, file.label, checked.height, checked.width, checked.status)


def _in_order(read: Callable[[ImageFile], Sample], files: Sequence[ImageFile]) -> Iterator[Sample]:
    """Map in threads (Pillow decodes without the GIL), a bounded number of files ahead."""
    num_threads = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(num_threads) as pool:
        ahead: deque[Future[Sample]] = deque()
        for file in files:
            ahead.append(pool.submit(read, file))
            if len(ahead) > 4 * num_threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _readers_disagree(image: Image.Image) -> bool:
    # Of TIFFs, Pillow turns those with an orientation tag and DALI doesn't; DALI reads no bitmaps.
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation != 1 or image.mode in {"1", "I", "F"}


def _bad(status: str) -> Checked:
    return Checked(0, 0, status)
