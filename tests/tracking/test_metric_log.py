import json
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pipeline.tracking import metric_log
from pipeline.tracking.metric_log import LostRecords, MetricLog, Record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def written(path: Path) -> list[tuple[int, dict[str, float]]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["step"], line["metrics"]) for line in lines]


def all_records(log: MetricLog, size: int) -> Iterator[Record]:
    offset = 0
    while (chunk := log.read(offset, size)).end > offset:
        yield from chunk.records
        offset = chunk.end


def test_records_are_read_back_in_chunks_of_any_size(path: Path) -> None:
    log = MetricLog(path)
    records = [Record(step, 1000 + step, {"loss": step / 3}) for step in range(50)]
    for record in records:
        log.append(record)
    for size in (1, 100, 1 << 16):
        assert list(all_records(log, size)) == records
    log.close()


def test_each_metric_has_one_value_per_step_also_after_a_restart(path: Path) -> None:
    first = MetricLog(path)
    for step in (1, 2, 3):
        first.append(Record(step, 0, {"loss": step}))
    first.append(Record(3, 0, {"error": 0.5}))
    first.close()
    second = MetricLog(path)
    for step in (2, 3, 4):
        second.append(Record(step, 1, {"loss": 10 * step, "error": 0.25}))
    second.close()
    assert written(path) == [
        (1, {"loss": 1}),
        (2, {"loss": 2}),
        (3, {"loss": 3}),
        (3, {"error": 0.5}),
        (4, {"loss": 40, "error": 0.25}),
    ]


def test_an_incomplete_last_line_is_dropped_and_its_step_written_again(path: Path) -> None:
    log = MetricLog(path)
    for step in (1, 2):
        log.append(Record(step, 0, {"loss": 1.0}))
    log.close()
    path.write_bytes(path.read_bytes()[:-5])
    log = MetricLog(path)
    log.append(Record(2, 0, {"loss": 0.5}))
    log.close()
    assert written(path) == [(1, {"loss": 1.0}), (2, {"loss": 0.5})]


def test_a_damaged_line_does_not_hide_the_others(path: Path) -> None:
    path.write_bytes(
        b'{"step": 1, "time": 0, "metrics": {"loss": 1}}\n\x00\xff{\n[]\n'
        b'{"step": 2, "time": 0, "metrics": {"loss": 2}}\n'
    )
    log = MetricLog(path)
    assert [record.step for record in log.read(0).records] == [1, 2]
    log.close()


def test_values_that_are_not_finite_are_written_as_standard_json(path: Path) -> None:
    log = MetricLog(path)
    log.append(Record(1, 0, {"a": math.nan, "b": math.inf, "c": -math.inf}))
    (record,) = log.read(0).records
    log.close()
    assert math.isnan(record.metrics["a"])
    assert (record.metrics["b"], record.metrics["c"]) == (math.inf, -math.inf)
    assert written(path) == [(1, {"a": "nan", "b": "inf", "c": "-inf"})]


@contextmanager
def full_after(path: Path, num_bytes: int) -> Iterator[None]:
    """Have the kernel write so many more bytes of the file, then no more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_a_full_disk_refuses_is_written_in_order_when_there_is_room(path: Path) -> None:
    log = MetricLog(path)
    log.append(Record(1, 0, {"loss": 1.0}))
    for first in (2, 10, 20):  # each time the disk is full in the middle of a line
        with full_after(path, 10):
            for step in (first, first + 1):
                with pytest.raises(OSError, match=r"File too large|No space left"):
                    log.append(Record(step, 0, {"loss": float(step)}))
            assert [record.step for record in log.waiting().records] == [first, first + 1]
        assert path.read_bytes().endswith(b"}\n")
        log.append(Record(first + 2, 0, {"loss": float(first + 2)}))
        assert not log.waiting().records
    log.close()
    steps = [1, 2, 3, 4, 10, 11, 12, 20, 21, 22]
    assert written(path) == [(step, {"loss": float(step)}) for step in steps]
    assert log.lost is None


def test_the_oldest_records_that_wait_are_lost_unless_they_are_delivered(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metric_log, "MOST_WAITING", 5)
    log = MetricLog(path)

    def append(steps: range) -> None:
        for step in steps:
            with suppress(OSError):
                log.append(Record(step, 0, {"loss": 0.0}))

    with full_after(path, 0):
        append(range(1, 4))
        log.delivered(log.waiting())
        append(range(4, 9))
        assert log.lost is None
        append(range(9, 11))
    assert log.lost == LostRecords(2, 4, 5)
    append(range(11, 12))
    assert [step for step, _ in written(path)] == list(range(6, 12))
    log.close()
