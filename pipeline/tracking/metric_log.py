"""The metrics of a run as a local file, a JSON line a record; it outlives workers and servers."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Record:
    """Metrics of one step. `time` is in milliseconds since 1970."""

    step: int
    time: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class LogChunk:
    """Consecutive records, and the offset in bytes at which the next one starts."""

    records: tuple[Record, ...]
    end: int


class MetricLog:
    """An append-only file of records in which the steps of each metric rise.

    A resumed training repeats the steps since its checkpoint: a step that a metric has already is
    left out, so that each metric has one value per step. Values that are not finite are written as
    strings, since JSON can't express them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)
        self._drop_torn_line()
        self._last_steps: dict[str, int] = {}
        offset = 0
        while (chunk := self.read(offset)).end > offset:
            offset = chunk.end
            for record in chunk.records:
                self._last_steps.update(dict.fromkeys(record.metrics, record.step))

    def append(self, record: Record) -> None:
        """Write the record, without repeated steps; it then outlives the process.

        Raises `OSError` when it can't be written; the file then ends with the record before it.
        """
        new = {
            key: float(value)
            for key, value in record.metrics.items()
            if record.step > self._last_steps.get(key, -1)
        }
        if not new:
            return
        line = _to_line(Record(record.step, record.time, new))
        start = self._file.tell()
        if self._file.write(line) != len(line):
            self._file.truncate(start)
            raise OSError(f"{self.path}: the disk is full")
        self._last_steps.update(dict.fromkeys(new, record.step))

    def read(self, offset: int, size: int = 1 << 16) -> LogChunk:
        """Return the complete records from `offset` on, about `size` bytes of them."""
        with self.path.open("rb") as file:
            file.seek(offset)
            lines = [line for line in file.readlines(size) if line.endswith(b"\n")]
        records = (_from_line(line) for line in lines)
        return LogChunk(
            tuple(record for record in records if record), offset + sum(map(len, lines))
        )

    def close(self) -> None:
        self._file.close()

    def _drop_torn_line(self) -> None:
        # A loss of power may leave half a line.
        content = self.path.read_bytes()
        os.ftruncate(self._file.fileno(), content.rfind(b"\n") + 1)
        self._file.seek(0, os.SEEK_END)


def _to_line(record: Record) -> bytes:
    metrics = {
        key: value if math.isfinite(value) else str(value) for key, value in record.metrics.items()
    }
    content = {"step": record.step, "time": record.time, "metrics": metrics}
    return json.dumps(content, allow_nan=False).encode() + b"\n"


def _from_line(line: bytes) -> Record | None:
    try:
        content = json.loads(line)
        metrics = {key: float(value) for key, value in content["metrics"].items()}
        return Record(content["step"], content["time"], metrics)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # damaged; the other lines are still read
