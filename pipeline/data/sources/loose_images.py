"""Images that are named one by one: files, folders of them, and standard input."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from pipeline.data.sources.naming import is_junk
from pipeline.data.store.image_check import treat_image
from pipeline.data.store.packing import Sample
from pipeline.data.store.shards import image_extension
from pipeline.runtime.plain_text import printable

STANDARD_INPUT = "-"
_SIGNATURE_BYTES = 64


def loose_images(places: Sequence[str], standard_input: BinaryIO) -> Iterator[Sample]:
    """Read the images at `places` one after another, as they would be packed, without a label.

    A folder stands for all files below it, by name, but for those that `prepare` leaves out. The
    key of a sample is its path; where it can't be read, its status says why.
    """
    for place in places:
        if place == STANDARD_INPUT:
            yield _sample(standard_input, place)
        else:
            yield from map(_read, _files(Path(place)))


def _files(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place]
    found = sorted(path for path in place.rglob("*") if not path.is_dir())
    return [path for path in found if not any(map(is_junk, path.relative_to(place).parts))]


def _read(path: Path) -> Sample:
    key = printable(str(path))
    try:
        with path.open("rb") as file:
            return _sample(file, key)
    except OSError as error:
        return Sample(key, b"", -1, 0, 0, f"can't be read ({error.strerror})")


def _sample(file: BinaryIO, key: str) -> Sample:
    """Read an image; of anything else only the start, however long it is."""
    start = file.read(_SIGNATURE_BYTES)
    return treat_image(start + file.read() if image_extension(start) else start, key, -1)
