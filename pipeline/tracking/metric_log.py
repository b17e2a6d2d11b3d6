"""The metrics of a run as a local file, a JSON line a record; it outlives workers and servers."""

import errno
import json
import math
import os
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Record:
    """Metrics of one step. `time` is in milliseconds since 1970."""

    step: int
    time: int
    metrics: Mapping[str, float]


METRICS_FILE = "metrics.jsonl"  # in a run's folder
MOST_WAITING = 10_000  # records that wait in memory for room on the disk; about 10 MB


@dataclass(frozen=True)
class WaitingRecords:
    """The records that follow those in the file, and the number of all records up to the last."""

    records: tuple[Record, ...]
    end: int


@dataclass(frozen=True)
class LostRecords:
    """How many records are neither in the file nor delivered, and the steps that they span."""

    number: int
    first_step: int
    last_step: int

    def __str__(self) -> str:
        return f"{self.number} records of steps {self.first_step} to {self.last_step}"


@dataclass(frozen=True)
class LogChunk:
    """Consecutive records, and the offset in bytes at which the next one starts."""

    records: tuple[Record, ...]
    end: int


class MetricLog:
    """An append-only file of records in which the steps of each metric rise.

    A resumed training repeats the steps since its checkpoint: a step that a metric has already is
    left out, so that each metric has one value per step. Values that are not finite are written as
    strings, since JSON can't express them. What a full disk doesn't take waits in memory,
    `MOST_WAITING` records at most, and is written in order when there is room. One thread may
    append while another one reads and delivers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost: LostRecords | None = None
        self._lock = threading.Lock()
        self._waiting: deque[Record] = deque()
        self._num_taken = self._num_delivered = 0  # of all that waited: out of memory, sent
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

        Raises `OSError` when it can't be written; it then waits, and the file ends with a record.
        """
        with self._lock:
            self._waiting.append(record)
            try:
                while self._waiting:
                    self._write(self._waiting[0])
                    self._take()
            finally:
                while len(self._waiting) > MOST_WAITING:
                    is_delivered = self._num_taken < self._num_delivered
                    oldest = self._take()
                    if not is_delivered:
                        first = self.lost or LostRecords(0, oldest.step, oldest.step)
                        self.lost = LostRecords(first.number + 1, first.first_step, oldest.step)

    def waiting(self) -> WaitingRecords:
        """Return the records that aren't in the file, to be read before it.

        Those that are written meanwhile then come twice, none is left out.
        """
        with self._lock:
            records = tuple(self._waiting)
            return WaitingRecords(records, self._num_taken + len(records))

    def delivered(self, waiting: WaitingRecords) -> None:
        """Note that these records, and all before them, are where they belong without the file."""
        self._num_delivered = waiting.end

    def _take(self) -> Record:
        self._num_taken += 1
        return self._waiting.popleft()

    def _write(self, record: Record) -> None:
        new = {
            key: float(value)
            for key, value in record.metrics.items()
            if record.step > self._last_steps.get(key, -1)
        }
        if not new:
            return
        line = _to_line(Record(record.step, record.time, new))
        start = os.fstat(self._file.fileno()).st_size
        if self._file.write(line) != len(line):
            self._file.truncate(start)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
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
