"""The published results, each under the key that says what it was measured on.

The numbers are in `published.yaml`, errors in percent. Which of them compare with which results is
defined in `pipeline.results.comparability`.
"""

import re
from collections import Counter
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, PositiveInt, model_validator

from pipeline.config.yaml import Section, read_yaml, validate

Percent = Annotated[float, Field(ge=0.0, le=100.0)]
Text = Annotated[str, Field(min_length=1)]
ErrorName = Literal["top-1", "top-5"]


@dataclass(frozen=True)
class ResultKey:
    """What an error was measured on: two errors compare only if all of it is equal.

    `network` is a name of the zoo, or words for what is not in it. If a source does not give them,
    `protocol` is "unstated" and `ensemble_size` None.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    network: str
    training_data: str
    split: str
    protocol: str
    ensemble_size: int | None = 1
    extra_data: str = "none"

    @property
    def qualifiers(self) -> tuple[str, ...]:
        """In words, the size of an ensemble and extra data; empty for one network without."""
        ensemble = (f"ensemble of {self.ensemble_size}",) if self.ensemble_size != 1 else ()
        extra = (f"extra data {self.extra_data}",) if self.extra_data != "none" else ()
        return ensemble + extra


class Published(Section):
    """One published result. `variant` distinguishes results with the same key and source.

    `members` lists the networks of an ensemble, if the source does. `certainty` is whether the
    number was read in the source (or a transcription), or computed by us from what was read.
    """

    network: Text
    training_data: Text
    split: Text
    protocol: Text
    ensemble_size: PositiveInt | None = 1
    extra_data: Text = "none"
    variant: str = ""
    members: tuple[Text, ...] = ()
    top1_error: Percent | None = None
    top5_error: Percent | None = None
    images: PositiveInt | None = None
    source: Text
    certainty: Literal["read", "computed"]

    @property
    def key(self) -> ResultKey:
        return ResultKey(**{field.name: getattr(self, field.name) for field in fields(ResultKey)})

    def error(self, name: ErrorName) -> float | None:
        return self.top1_error if name == "top-1" else self.top5_error

    @property
    def errors(self) -> str:
        """The errors as papers write them: "42.9 / 19.8", "42.9" alone, or top-5 as "– / 10.07"."""
        if self.top5_error is None:
            return str(self.top1_error)
        return f"{self.top1_error or '–'} / {self.top5_error}"

    @property
    def citation(self) -> str:
        """The source, with the variant."""
        return f"{self.source} ({self.variant})" if self.variant else self.source

    @property
    def composition(self) -> str:
        """The members of an ensemble, as "5 × alexnet, 2 × wide"; empty if they are unknown."""
        return ", ".join(
            f"{count} × {member}" if count > 1 else member
            for member, count in Counter(self.members).items()
        )

    @model_validator(mode="after")
    def _members_are_counted(self) -> Self:
        if self.members and len(self.members) != self.ensemble_size:
            raise ValueError(f"{len(self.members)} members of an ensemble of {self.ensemble_size}")
        return self

    @model_validator(mode="after")
    def _errors_are_possible(self) -> Self:
        if self.top1_error is None and self.top5_error is None:
            raise ValueError("top1_error or top5_error is needed")
        if self.top1_error is not None and (self.top5_error or 0.0) > self.top1_error:
            raise ValueError("top5_error must not be above top1_error")
        return self


@dataclass(frozen=True)
class LectureEntry:
    """A number of the lecture's table: as it is shown there, and the result that it is.

    `instead` holds the results of a single network that a run of one compares with.
    """

    name: str
    top5_error: float
    meaning: str
    result: Published
    instead: tuple[Published, ...]


def published() -> tuple[Published, ...]:
    """Return every published result; of those with one key, the one to compare with first."""
    return _numbers().results


def lecture_table() -> tuple[LectureEntry, ...]:
    """Return the lecture's benchmark table, oldest first."""
    return _numbers().lecture


_LOGITS = "-logits"
# By the beginning of a protocol's name: its passes over an image, or None for the number in it.
_PASSES = {"whole|center-": 1, "flip-": 2, "ten-crop-": 10, r"(?:crops|grid|google)-(\d+)": None}


def protocol_words(protocol: str) -> str:
    """Return the description of a protocol; of an unlisted one, its name."""
    meaning = _numbers().protocols.get(protocol)
    if meaning:
        return meaning.words
    if found := re.fullmatch(r"(.+)-among-(\d+)", protocol):
        return f"{protocol_words(found[1])}, guesses among {int(found[2]):,} classes"
    plain = protocol.removesuffix(_LOGITS)
    return protocol if plain == protocol else f"{protocol_words(plain)}, logits averaged"


def protocol_passes(protocol: str) -> int | None:
    """Return how many times a protocol runs the network for one image; None if unknown.

    Unlisted protocols are this project's (`pipeline.config.protocol`); their names tell.
    """
    meaning = _numbers().protocols.get(protocol)
    if meaning:
        return meaning.passes
    for pattern, passes in _PASSES.items():
        if found := re.match(pattern, protocol):
            return passes or int(found[1])
    return None


class _Protocol(Section):
    """`passes` of the network over one image, if known; `words` describe it in a sentence."""

    passes: PositiveInt | None = None
    words: Text


class _Table(Section):
    rows: tuple[Published, ...]

    @model_validator(mode="before")
    @classmethod
    def _share(cls, content: Any) -> Any:
        if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
            return content
        shared = {key: value for key, value in content.items() if key != "rows"}
        return {"rows": [{**shared, **row} for row in content["rows"]]}


class _LectureRow(Section):
    name: Text
    top5_error: Percent
    result: ResultKey
    meaning: Text
    instead: tuple[ResultKey, ...]


class _Document(Section):
    protocols: dict[str, _Protocol]
    splits: dict[str, dict[str, PositiveInt | None]]
    tables: tuple[_Table, ...]
    lecture: tuple[_LectureRow, ...]

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        for result in (row for table in self.tables for row in table.rows):
            if result.protocol not in self.protocols:
                raise ValueError(f"protocol '{result.protocol}' of {result.source} is not listed")
            if result.split not in self.splits.get(result.training_data, {}):
                place = f"{result.training_data}, {result.split}"
                raise ValueError(f"split '{place}' of {result.source} is not listed")
        return self


@dataclass(frozen=True)
class _Numbers:
    results: tuple[Published, ...]
    protocols: dict[str, _Protocol]
    lecture: tuple[LectureEntry, ...]


@cache
def _numbers() -> _Numbers:
    path = Path(__file__).with_suffix(".yaml")
    document = validate(_Document, read_yaml(path), path)
    results = tuple(
        row
        if "images" in row.model_fields_set
        else row.model_copy(update={"images": document.splits[row.training_data][row.split]})
        for table in document.tables
        for row in table.rows
    )
    by_key = {result.key: result for result in reversed(results)}  # the first of each key
    lecture = tuple(
        LectureEntry(
            name=row.name,
            top5_error=row.top5_error,
            meaning=row.meaning,
            result=by_key[row.result],
            instead=tuple(by_key[key] for key in row.instead),
        )
        for row in document.lecture
    )
    return _Numbers(results, document.protocols, lecture)
