"""What the tests of trainings share."""

from collections.abc import Callable

from pipeline.launch.worker import Job
from pipeline.tracking.client import connect

MakeJob = Callable[..., Job]


def tracked_losses(job: Job) -> list[tuple[int, float]]:
    """The steps and losses that MLflow has, in the order in which they came."""
    client = connect(job.tracking_uri)
    history = client.get_metric_history(job.folder.tracking_run_id(), "train/loss")
    return [(metric.step, metric.value) for metric in history]
