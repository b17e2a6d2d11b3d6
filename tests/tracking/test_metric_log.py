import json
import math
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.tracking.metric_log import MetricLog, Record


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


def test_a_full_disk_leaves_complete_lines_and_the_step_can_be_written_later(path: Path) -> None:
    log = MetricLog(path)
    log.append(Record(1, 0, {"loss": 1.0}))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel writes ten more bytes of this file, then no more.
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, before[1]))
    try:
        with pytest.raises(OSError, match="disk is full"):
            log.append(Record(2, 0, {"loss": 2.0}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    log.append(Record(2, 0, {"loss": 3.0}))
    log.close()
    assert written(path) == [(1, {"loss": 1.0}), (2, {"loss": 3.0})]
