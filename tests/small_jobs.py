"""Helpers of tests that train."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median

from pipeline.launch.training_job import TrainingJob
from pipeline.tracking.mlflow_client import connect

MakeJob = Callable[..., TrainingJob]


def tracked_losses(job: TrainingJob) -> list[tuple[int, float]]:
    """Return the steps and losses in MLflow, in the order in which they were logged."""
    client = connect(job.tracking_uri)
    history = client.get_metric_history(job.folder.tracking_run_id(), "train/loss")
    return [(metric.step, metric.value) for metric in history]


def had_the_same_images(run: Path, calm: Path) -> bool:
    """Return whether each step of both runs, all of them recorded, was on the same images.

    The order in which workers add up changes the last bits, and training makes that grow; but the
    losses of one step stay nearer to each other than those of a step and the next, on other images.
    """
    ours, theirs = _losses(run), _losses(calm)
    if ours.keys() != theirs.keys():
        return False
    steps = sorted(theirs)
    for start in range(0, len(steps), 50):
        some = steps[start : start + 50]
        apart = median(abs(ours[step] - theirs[step]) for step in some)
        if apart > 0.5 * median(abs(theirs[a] - theirs[b]) for a, b in pairwise(some)):
            return False
    return True


def _losses(run: Path) -> dict[int, float]:
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {
        record["step"]: record["metrics"]["train/loss"]
        for record in records
        if "train/loss" in record["metrics"]
    }
