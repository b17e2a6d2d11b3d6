"""Figures of devices and data sets, with their sources: `hardware.yaml` beside this file."""

from functools import cache
from pathlib import Path
from typing import Literal, Self

from pydantic import PositiveFloat, PositiveInt, model_validator

from pipeline.config.yaml import Section, read_yaml, validate
from pipeline.runtime.errors import UserError
from pipeline.runtime.names import suggest

Precision = Literal["float32", "bfloat16"]


class Fact(Section):
    """A value, its certainty, and the name of its source."""

    value: PositiveFloat
    certainty: Literal["published", "derived", "estimated"]
    source: str


class Device(Section):
    """A GPU, or one core of a CPU, and the node it stands in; units are in the file.

    `has_bfloat16`: whether it computes it natively, so that it is used there.
    """

    title: str
    reported_as: str = ""
    workers_per_node: PositiveInt
    memory: Fact
    bandwidth: Fact
    peak: dict[Precision, Fact]
    efficiency: dict[Precision, Fact]
    peers: Fact
    network: Fact
    has_bfloat16: bool = True
    remark: str = ""

    def precision(self, asked_for: Precision) -> Precision:
        """Return the precision that is used on it (`pipeline.runtime.precision`)."""
        return asked_for if self.has_bfloat16 else "float32"


class DataFacts(Section):
    """A data set's images by split, and the mean size of one in bytes."""

    train: PositiveInt
    val: PositiveInt
    bytes: PositiveInt
    source: str


class Hardware(Section):
    """The whole file."""

    sources: dict[str, str]
    devices: dict[str, Device]
    activation_passes: Fact
    launch: Fact
    decoded_by_cpu: Fact
    decoded_with_gpu: Fact
    network_share: Fact
    delay: Fact
    other_memory: Fact
    largest_batch: Fact
    data: dict[str, DataFacts]

    @model_validator(mode="after")
    def _every_source_is_listed(self) -> Self:
        parts: list[Section] = [self, *self.devices.values()]
        cited = [fact.source for part in parts for fact in _facts(part)]
        for name in cited + [data.source for data in self.data.values()]:
            if name not in self.sources:
                raise ValueError(f"source '{name}' is not listed under sources")
        return self

    def device(self, name: str) -> Device:
        if name not in self.devices:
            raise UserError(f"GPU '{name}': not known; {suggest(name, self.devices)}")
        return self.devices[name]


@cache
def read_hardware() -> Hardware:
    path = Path(__file__).with_name("hardware.yaml")
    return validate(Hardware, read_yaml(path), path)


def _facts(section: Section) -> list[Fact]:
    groups = [value.values() if isinstance(value, dict) else [value] for _, value in section]
    return [fact for group in groups for fact in group if isinstance(fact, Fact)]
