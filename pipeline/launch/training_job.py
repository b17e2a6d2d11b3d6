"""What every worker of a job is given, and what any work on workers begins with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar

from pipeline.config.cluster import Cluster, Folder
from pipeline.config.recipe import Recipe
from pipeline.data.loading.sampler import BatchSampler
from pipeline.data.store.stage import stage
from pipeline.data.store.store import Store, store_folder
from pipeline.launch.events import Message, Report
from pipeline.launch.heartbeat import Watchdog
from pipeline.planning.pass_size import gpu_memory, micro_batches_at_once
from pipeline.runs.initial_weights import InitialWeights
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.credentials import without_credentials
from pipeline.runtime.determinism import computing_on
from pipeline.runtime.distributed import Worker
from pipeline.runtime.errors import WorkerFailedError
from pipeline.runtime.precision import precision_of_all


class WorkerJob(Protocol):
    """What any job on workers has: its cluster, and a folder that all workers see."""

    @property
    def cluster(self) -> Cluster: ...

    @property
    def folder(self) -> RunFolder: ...

    @property
    def precision(self) -> str: ...

    def in_precision(self, precision: str) -> Self:
        """Return the same job, computed in "float32" or "bfloat16"."""
        ...


Result = TypeVar("Result")
Work = TypeVar("Work", bound=WorkerJob)
WorkerFunction = Callable[[Work, Worker, Report], Result]


@dataclass(frozen=True)
class TrainingJob:
    """A training as every worker gets it, and the weights that it starts from, if any."""

    recipe: Recipe
    cluster: Cluster
    folder: RunFolder
    tracking_uri: str
    initial_weights: InitialWeights | None = None

    @property
    def precision(self) -> str:
        return self.recipe.precision

    def in_precision(self, precision: str) -> Self:
        """Return the same training, computed in `precision`; the run keeps its recipe."""
        return replace(self, recipe=self.recipe.model_copy(update={"precision": precision}))

    def store(self) -> Store:
        """Open the data set of the recipe."""
        return open_data(self.cluster, store_folder(self.cluster, self.recipe.data.name))

    def sampler(self, worker: Worker) -> BatchSampler:
        """Return how the training split's images come to batches, on `worker` to passes too."""
        recipe = self.recipe
        images = self.store().split_manifest(recipe.data.train_split)
        at_once = micro_batches_at_once(recipe, self.cluster.compute, gpu_memory(worker.device))
        return BatchSampler.of(recipe.batch, images.num_images, worker.world_size, at_once)


def open_data(cluster: Cluster, folder: Folder) -> Store:
    """Open the data set in `folder`, on this node's own disk where the cluster has it staged."""
    if cluster.stage_to:
        return stage(folder, cluster.stage_to)
    return Store.open(folder, cluster.cache)


@contextmanager
def watched(job: WorkerJob, worker: Worker, report: Report) -> Iterator[Watchdog]:
    """Have a worker that hangs ended, unless it is a debugger's, with `workers.count: 0`."""
    workers = job.cluster.workers
    watchdog = Watchdog(
        job.folder.path,
        workers.hang_seconds,
        worker,
        report,
        may_be_stopped=workers.are_in_process,
    )
    with nullcontext() if workers.count == 0 else watchdog.watching():
        yield watchdog


def worker_failure(error: Exception, traceback: str, folder: RunFolder) -> WorkerFailedError:
    """Leave the traceback of what ended a worker in the run's folder; return what names it."""
    folder.errors.write_text(without_credentials(traceback), encoding="utf-8")
    first_line = (str(error).strip().splitlines() or [""])[0]
    return WorkerFailedError(
        f"a worker failed: {type(error).__name__}: {first_line}; the traceback is in "
        f"{folder.errors}"
    )


def call_on_worker(
    function: WorkerFunction[Work, Result], job: Work, worker: Worker, report: Report
) -> Result:
    """Call `function` as every worker does, on its device and in a precision that all have.

    A collective call.
    """
    with computing_on(worker.device, deterministic=job.cluster.deterministic):
        precision = precision_of_all(worker, job.precision)
        if precision != job.precision:
            job = job.in_precision(precision)
            if worker.is_first:
                report(Message("not every worker's device computes bfloat16: float32 is used"))
        return function(job, worker, report)
