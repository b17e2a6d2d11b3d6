"""Leaves out images that turn out bad during a training, and writes them down."""

from collections.abc import Callable
from pathlib import Path

from pipeline.data.store.store import Split
from pipeline.runtime.errors import UserError


class Quarantine:
    """The images of `split` that a training left out, a line each in `file`, for all workers.

    Raises `UserError` once they are more than `max_share` of the split, and tells `warn` of each.
    """

    def __init__(
        self, file: Path, split: Split, max_share: float, warn: Callable[[str], None]
    ) -> None:
        self._file, self._split, self._warn = file, split, warn
        self._most = int(max_share * len(split))

    def add(self, image: int, damage: str) -> None:
        """Write down that `image` is left out, once whatever the number of epochs."""
        line = f"{self._split.location(image)}: {damage}\n"
        known = self._lines()
        if line in known:
            return
        with self._file.open("a", encoding="utf-8") as file:
            file.write(line)
        number = len(known | {line})
        if number > self._most:
            raise UserError(
                f"{line.strip()}; with it {number} images are bad, and data.bad_images.max_share "
                f"allows {self._most} of {len(self._split):,}; prepare the data set again"
            )
        self._warn(f"left out {line.strip()} ({number} so far, at most {self._most})")

    def _lines(self) -> set[str]:
        if not self._file.exists():
            return set()
        return set(self._file.read_text(encoding="utf-8").splitlines(keepends=True))
