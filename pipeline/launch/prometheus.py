"""Exports a training's metrics for Prometheus by Ray's endpoints; `docker/grafana` draws them.

The driver receives the events of all workers and is the one process that sets the gauges. Ray
writes `ray_` before each name, and serves them as text on the driver's node (`MetricsExportPort` of
`ray.nodes()`).
"""

from pipeline.launch.events import Event, StepsReport, WorkerSpeed, WorkerStarted

# By name: the description, and the tags of its series.
GAUGES = {
    "ilsvrc_images_per_second": ("Training images per second, of all workers", ("run",)),
    "ilsvrc_epoch": ("Epochs done, with the part of the current one", ("run",)),
    "ilsvrc_restarts": ("How often the workers were started again by this driver", ("run",)),
    "ilsvrc_step_seconds": ("Mean seconds of an optimizer step", ("run", "worker")),
    "ilsvrc_waiting_seconds": ("Of these, seconds spent waiting for images", ("run", "worker")),
    "ilsvrc_gpu_bytes": ("Memory in use on the worker's GPU", ("run", "worker")),
}


class PrometheusMetrics:
    """The gauges of run `run`. Ray must be up."""

    def __init__(self, run: str) -> None:
        from ray.util.metrics import Gauge

        self._run, self._starts = run, 0
        self._gauges = {
            name: Gauge(name, description, tag_keys=tags)
            for name, (description, tags) in GAUGES.items()
        }

    def update(self, event: Event) -> None:
        match event:
            case WorkerStarted(rank=0):
                self._starts += 1
                self._set("ilsvrc_restarts", self._starts - 1)
            case StepsReport():
                self._set("ilsvrc_images_per_second", event.images_per_second)
                self._set("ilsvrc_epoch", event.epoch + event.step / event.num_steps)
            case WorkerSpeed(rank=rank):
                self._set("ilsvrc_step_seconds", event.step_seconds, rank)
                self._set("ilsvrc_waiting_seconds", event.waiting_seconds, rank)
                self._set("ilsvrc_gpu_bytes", event.gpu_bytes, rank)

    def _set(self, name: str, value: float, rank: int | None = None) -> None:
        worker = {} if rank is None else {"worker": str(rank)}
        self._gauges[name].set(value, tags={"run": self._run} | worker)
