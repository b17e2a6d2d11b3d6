"""The links between the workers of a training, measured by an all-reduce of its gradients' size."""

import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from pipeline.checks.preflight import Check
from pipeline.config.cluster import Cluster
from pipeline.config.recipe import Recipe
from pipeline.launch.events import Report
from pipeline.launch.ray_train import run_on_workers
from pipeline.launch.training_job import TrainingJob, watched
from pipeline.planning.workload import meta_model
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.distributed import Worker, synchronize
from pipeline.runtime.errors import UserError, WorkerFailedError

_LARGEST_BUFFER = 2**28  # bytes
_ROUNDS = 5
_SECONDS_TO_CONNECT = 120
_SECONDS_TO_ADD = 20


def check_links(recipe: Recipe, cluster: Cluster, folder: Path) -> Check:
    """Time an all-reduce of the gradients' size between the workers of a training."""
    num_workers = cluster.workers.fewest
    if num_workers == 1:
        return Check("all-reduce", True, "one worker has nothing to exchange")
    limits = {"max_failures": 0, "hang_seconds": _SECONDS_TO_ADD}
    workers = cluster.workers.with_count(num_workers).model_copy(update=limits)
    timeout = min(cluster.network.timeout_seconds, _SECONDS_TO_CONNECT)
    network = cluster.network.model_copy(update={"timeout_seconds": timeout})
    cluster = cluster.model_copy(update={"workers": workers, "network": network})
    job = TrainingJob(recipe, cluster, RunFolder(folder), "")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        size, seconds = run_on_workers(_time_all_reduce, job, lambda event: None)
    except (UserError, WorkerFailedError, OSError) as error:
        return Check("all-reduce", False, str(error))
    # "Bus bandwidth" of nccl-tests: the rate of each link, whatever the number of workers.
    bandwidth = 2 * (num_workers - 1) / num_workers * size / seconds
    return Check(
        "all-reduce",
        True,
        f"{num_workers} workers, {size / 1e6:.3g} MB in {seconds * 1e3:,.1f} ms: "
        f"{bandwidth / 1e9:.2g} GB/s each",
    )


def _time_all_reduce(job: TrainingJob, worker: Worker, report: Report) -> tuple[int, float]:
    """Return the bytes and the median seconds of one all-reduce. A collective call."""
    parameters = sum(value.numel() for value in meta_model(job.recipe).parameters())
    buffer = torch.zeros(min(parameters, _LARGEST_BUFFER // 4), device=worker.device)
    _all_reduce(buffer)  # connects, before anything is timed or watched
    with watched(job, worker, report) as watchdog:
        seconds = [_all_reduce(buffer) for _ in watchdog.counted(range(_ROUNDS))]
    return 4 * buffer.numel(), statistics.median(seconds)


def _all_reduce(buffer: Tensor) -> float:
    """Sum `buffer` over the workers, and return the seconds that it took."""
    synchronize(buffer.device)
    started = time.perf_counter()
    torch.distributed.all_reduce(buffer)
    synchronize(buffer.device)
    return time.perf_counter() - started
