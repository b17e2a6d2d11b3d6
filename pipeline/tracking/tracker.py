"""A worker's side of a tracked run: metrics, sent without stalling, failing or repeating a step."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType

from pipeline.runtime.background import said_if_long
from pipeline.runtime.credentials import without_credentials
from pipeline.tracking.metric_log import METRICS_FILE, MOST_WAITING, LostRecords, MetricLog, Record
from pipeline.tracking.mlflow_client import connect, load_mlflow, reason, user_errors

_LOG = logging.getLogger(__name__)
_METRICS_PER_CALL = 1000  # MLflow's limit


class SilentTracker:
    """Tracks nothing; the tracker of all workers but the first."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Tracker(SilentTracker):
    """Writes metrics to `<folder>/metrics.jsonl`, from where a thread sends them to MLflow.

    The file is the queue: `log` returns once a line is appended, whatever the server does, and
    records wait there in order until the server has them, through outages, kills and restarts.
    `run_id` is called until it returns one, since a run may be made late. Then the thread gets the
    last step of each metric from the run and skips what is there already. A batch sent twice counts
    once, since MLflow drops metrics that are equal in key, step, time and value. Infinities become
    ±1.8e308 in MLflow, NaN stays NaN. `tags` are set once the run is there. While the disk is full,
    records are sent from memory; what overflows there unsent is lost, and the run gets the tag
    `metrics.lost`.
    """

    def __init__(
        self,
        uri: str,
        run_id: Callable[[], str],
        folder: Path,
        *,
        tags: Mapping[str, str] = MappingProxyType({}),
        warn: Callable[[str], None] = _LOG.warning,
        seconds_between_batches: float = 1.0,
        seconds_to_close: float = 30.0,
    ) -> None:
        self._uri, self._run_id, self._tags, self._warn = uri, run_id, tags, warn
        self._pause, self._close_timeout = seconds_between_batches, seconds_to_close
        self._metric_log = MetricLog(folder / METRICS_FILE)
        self._has_warned = False
        # The clock may be set meanwhile, and MLflow shows metrics in the order of their times.
        self._booted = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._closing, self._given_up = threading.Event(), threading.Event()
        self._problem = "no answer yet"
        load_mlflow()  # not in the thread: imports in two threads can deadlock
        self._thread = threading.Thread(target=self._upload, name="tracker", daemon=True)
        self._thread.start()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record `metrics` at `step`; a step that a metric has already is skipped.

        Takes the time to write one line to a file. Never raises for a disk or a server.
        """
        try:
            self._metric_log.append(Record(step, self._now(), metrics))
        except OSError as error:
            if not self._has_warned:
                self._warn(
                    f"metrics can't be written to {self._metric_log.path} ({error.strerror}); "
                    f"{MOST_WAITING:,} records wait in memory and are sent from there"
                )
            self._has_warned = True

    def _now(self) -> int:
        return (self._booted + time.clock_gettime_ns(time.CLOCK_BOOTTIME)) // 1_000_000

    def close(self) -> None:
        """Send what is left; after `seconds_to_close` warn and leave it in the file."""
        self._closing.set()
        where = f"tracking store {without_credentials(self._uri)}"
        notice = f"waiting {self._close_timeout:g} s at most for {where} to take the last metrics"
        with said_if_long(self._warn, notice):
            self._thread.join(self._close_timeout)
        self._given_up.set()
        problem = self._problem or ("doesn't answer" if self._thread.is_alive() else "")
        waiting = len(self._metric_log.waiting().records)
        if problem:
            kept = (
                f"{waiting} records of metrics are lost; the others" if waiting else "All metrics"
            )
            self._warn(
                f"{where} {problem}. {kept} are in {self._metric_log.path}; the end of the "
                f"training, or going on with it, delivers them"
            )
        self._metric_log.close()

    def _upload(self) -> None:
        upload = None
        while not self._given_up.is_set():
            last_round = self._closing.wait(self._pause)
            try:
                upload = upload or self._open_upload()
                upload.send_new()
                self._problem = ""
            except Exception as error:  # whatever the network does, training goes on
                self._problem = reason(error, self._uri)
                self._given_up.wait(self._pause)
            else:
                if last_round:
                    return

    def _open_upload(self) -> "_MetricUpload":
        run_id = self._run_id()
        upload = _MetricUpload(self._uri, run_id, self._metric_log)
        for key, value in self._tags.items():
            connect(self._uri).set_tag(run_id, key, value)
        return upload


def deliver_metrics(uri: str, run_id: str, folder: Path) -> None:
    """Send the run what it lacks of `<folder>/metrics.jsonl`; the run's tracker is closed by then.

    Raises `UserError` at the first request that fails.
    """
    with user_errors(uri), closing(MetricLog(folder / METRICS_FILE)) as metric_log:
        _MetricUpload(uri, run_id, metric_log).send_new()


class _MetricUpload:
    """Sends the records of a log to a run, each once and in order."""

    def __init__(self, uri: str, run_id: str, metric_log: MetricLog) -> None:
        if not run_id:
            raise LookupError("the run is not made yet")
        self._client, self._run_id, self._metric_log = connect(uri), run_id, metric_log
        sent = self._client.get_run(run_id).data.to_proto().metrics
        self._last_steps: dict[str, int] = {metric.key: metric.step for metric in sent}
        self._offset = 0
        self._lost: LostRecords | None = None  # as the run's tag has it

    def send_new(self) -> None:
        waiting = self._metric_log.waiting()
        while (chunk := self._metric_log.read(self._offset)).end > self._offset:
            self._send(chunk.records)
            self._offset = chunk.end
        self._send(waiting.records)
        self._metric_log.delivered(waiting)
        if self._metric_log.lost != self._lost:
            lost = self._metric_log.lost
            self._client.set_tag(self._run_id, "metrics.lost", str(lost))
            self._lost = lost

    def _send(self, records: Iterable[Record]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, record.time, record.step)
            for record in records
            for key, value in record.metrics.items()
            if record.step > self._last_steps.get(key, -1)
        ]
        for start in range(0, len(metrics), _METRICS_PER_CALL):
            batch = metrics[start : start + _METRICS_PER_CALL]
            self._client.log_batch(self._run_id, metrics=batch)
        self._last_steps.update((metric.key, metric.step) for metric in metrics)
