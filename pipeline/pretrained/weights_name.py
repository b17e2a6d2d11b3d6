"""How a command names a file of weights. Imports no torch, so that a wrong name is told at once."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.runtime.errors import UserError


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights, and its format; "" for this project's own."""

    format: str
    path: Path


def parse_weights(text: str) -> WeightsFile:
    """Read [FORMAT:]FILE; a path may have colons too."""
    format, colon, path = text.partition(":")
    if not colon or Path(text).is_file():
        return WeightsFile("", Path(text))
    return WeightsFile(format, Path(path))


def find_weights(text: str) -> WeightsFile:
    """Read `text`, [FORMAT:]FILE; `UserError` where there is no such file."""
    given = parse_weights(text)
    if not given.path.is_file():
        raise UserError(f"--weights {text}: no such file")
    return given
