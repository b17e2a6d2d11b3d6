"""The weights that others released, and the published results that each file reaches.

They are in `released.yaml`; `published.yaml` has the results.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from pipeline.config.yaml import Section, read_yaml, validate
from pipeline.results.published import Published, Text, published


class Reached(Section):
    """Rows of the published results, by their source and variant; `of` is their network."""

    source: Text
    variant: str = ""
    of: str = ""


class ReleasedFile(Section):
    """A file of weights: where it is from, how it is read, and what it reaches.

    `sees` is the preprocessing in words, `differs` what of the source's test isn't repeated here.
    """

    file: Text
    network: Text
    publisher: Text
    page: Annotated[str, Field(pattern="^https://")]
    format: Text
    sees: Text
    differs: str = ""
    reaches: Annotated[tuple[Reached, ...], Field(min_length=1)]


@dataclass(frozen=True)
class ReleasedResult:
    """A published result, a released file that reaches it, and the command."""

    result: Published
    file: ReleasedFile

    @property
    def command(self) -> str:
        """The command that evaluates the file as the result was; of an unstated resize, its own."""
        own = self.result.protocol in _RESIZE_UNSTATED
        protocol = "" if own else f" --protocol {self.result.protocol}"
        return (
            f"ilsvrc evaluate --weights {self.file.format}:{self.file.file} "
            f"--network {self.file.network} --data {self.result.training_data}{protocol}"
        )


_RESIZE_UNSTATED = ("center-227", "center-299")


class _Set(Section):
    files: tuple[ReleasedFile, ...]

    @model_validator(mode="before")
    @classmethod
    def _share(cls, content: Any) -> Any:
        if not isinstance(content, dict) or not isinstance(content.get("files"), list):
            return content
        shared = {key: value for key, value in content.items() if key != "files"}
        return {"files": [{**shared, **file} for file in content["files"]]}


class _Document(Section):
    sets: tuple[_Set, ...]


@cache
def reproductions() -> tuple[ReleasedResult, ...]:
    """Return every published result that a released file reaches, file by file."""
    path = Path(__file__).with_suffix(".yaml")
    document = validate(_Document, read_yaml(path), path)
    found = []
    for file in (file for each in document.sets for file in each.files):
        for reached in file.reaches:
            rows = [row for row in published() if _is_reached(row, file, reached)]
            if not rows:
                raise ValueError(f"{path}: {file.file} reaches no row of {reached.source}")
            found += [ReleasedResult(row, file) for row in rows]
    return tuple(found)


def _is_reached(row: Published, file: ReleasedFile, reached: Reached) -> bool:
    return (row.network, row.source, row.variant, row.split, row.ensemble_size) == (
        reached.of or file.network, reached.source, reached.variant, "val", 1,
    )  # fmt: skip
