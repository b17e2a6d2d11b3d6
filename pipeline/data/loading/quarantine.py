"""Images that turn out damaged during a training: what is wrong with one, and the list of them."""

import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from pipeline.data.store.npy import decode_npy
from pipeline.data.store.store import Split
from pipeline.runtime.errors import UserError


class Quarantine:
    """The images of `split` that a training left out, a line each in `file`, for all workers.

    Raises `UserError` once they are more than `max_share` of the split, and calls `warn` for each.
    """

    def __init__(
        self, file: Path, split: Split, max_share: float, warn: Callable[[str], None]
    ) -> None:
        self._file, self._split, self._warn = file, split, warn
        self._max_images = int(max_share * len(split))

    def add(self, image: int, damage: str) -> None:
        """Write down that `image` is left out, once whatever the number of epochs."""
        line = f"{self._split.location(image)}: {damage}\n"
        known = self._lines()
        if line in known:
            return
        with self._file.open("a", encoding="utf-8") as file:
            file.write(line)
        number = len(known | {line})
        if number > self._max_images:
            raise UserError(
                f"{line.strip()}; with it {number} images are bad, and data.bad_images.max_share "
                f"allows {self._max_images} of {len(self._split):,}; prepare the data set again"
            )
        self._warn(f"left out {line.strip()} ({number} so far, at most {self._max_images})")

    def _lines(self) -> set[str]:
        if not self._file.exists():
            return set()
        return set(self._file.read_text(encoding="utf-8").splitlines(keepends=True))


def damage_of(split: Split, index: int) -> str | None:
    """Return what is wrong with an image or signal of `split`, or None where it is whole."""
    height, width = split.sizes[index].tolist()
    if split.contents == "signals":
        try:
            decode_npy(split.encoded(index), width)
        except ValueError as damage:
            return f"the signal {damage}"
        return _change(split, index)
    try:
        with Image.open(io.BytesIO(split.encoded(index).tobytes())) as file:
            file.load()
            found = file.size
    except UnidentifiedImageError:
        return "the image is in no known format"
    except (OSError, SyntaxError, ValueError) as damage:
        return f"the image can't be decoded ({damage})"
    if found == (width, height):
        return _change(split, index)
    return f"the image is {found[0]}×{found[1]}, but its index says {width}×{height}"


def _change(split: Split, index: int) -> str | None:
    return "its bytes have changed since it was packed" if split.has_changed(index) else None
