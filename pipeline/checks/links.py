"""The links between the workers of a training, measured as gradients will use them."""

import statistics
import time
from pathlib import Path

import torch

from pipeline.checks.preflight import Check
from pipeline.config.cluster import Cluster
from pipeline.config.recipe import Recipe
from pipeline.launch.events import Report
from pipeline.launch.ray_train import run_on_workers
from pipeline.launch.training_job import TrainingJob, watched
from pipeline.planning.workload import meta_model
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.distributed import Worker
from pipeline.runtime.errors import UserError, WorkerFailedError

_LARGEST_BUFFER = 2**28  # bytes
_ROUNDS = 5


def check_links(recipe: Recipe, cluster: Cluster, folder: Path) -> Check:
    """Have the workers of a training add up gradients, and say how fast that went."""
    workers = cluster.workers
    if workers.fewest == 1:
        return Check("all-reduce", True, "one worker has nothing to exchange")
    brief = workers.with_count(workers.fewest).model_copy(
        update={"max_failures": 0, "hang_seconds": 20}
    )
    job = TrainingJob(recipe, cluster.model_copy(update={"workers": brief}), RunFolder(folder), "")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        size, seconds = run_on_workers(_add_up, job, lambda event: None)
    except (UserError, WorkerFailedError, OSError) as error:
        return Check("all-reduce", False, str(error))
    # As NCCL's tests count: what each link carried, whatever the number of workers.
    bandwidth = 2 * (brief.fewest - 1) / brief.fewest * size / seconds
    return Check(
        "all-reduce",
        True,
        f"{brief.fewest} workers, {size / 1e6:.3g} MB in {seconds * 1e3:,.1f} ms: "
        f"{bandwidth / 1e9:.2g} GB/s each",
    )


def _add_up(job: TrainingJob, worker: Worker, report: Report) -> tuple[int, float]:
    """Return the bytes and the median seconds of one all-reduce. A collective call."""
    parameters = sum(value.numel() for value in meta_model(job.recipe).parameters())
    buffer = torch.zeros(min(parameters, _LARGEST_BUFFER // 4), device=worker.device)
    seconds = []
    with watched(job, worker, report) as watchdog:
        for _ in watchdog.counted(range(_ROUNDS + 1)):
            _synchronize(worker)
            started = time.perf_counter()
            torch.distributed.all_reduce(buffer)
            _synchronize(worker)
            seconds.append(time.perf_counter() - started)
    return 4 * buffer.numel(), statistics.median(seconds[1:])  # the first one connects


def _synchronize(worker: Worker) -> None:
    if worker.device.type == "cuda":
        torch.cuda.synchronize(worker.device)
