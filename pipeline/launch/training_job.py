"""What every worker of a job is given, and what any work on workers begins with."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

from pipeline.config.cluster import Cluster, Folder
from pipeline.config.recipe import Recipe
from pipeline.data.loading.sampler import BatchSampler
from pipeline.data.store.stage import stage
from pipeline.data.store.store import Store, store_folder
from pipeline.launch.events import Report
from pipeline.launch.heartbeat import Watchdog
from pipeline.planning.pass_size import gpu_memory, micro_batches_at_once
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.distributed import Worker


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


@dataclass(frozen=True)
class TrainingJob:
    """A training as every worker gets it; `initial_weights` is a file to start from, if any."""

    recipe: Recipe
    cluster: Cluster
    folder: RunFolder
    tracking_uri: str
    initial_weights: Path | None = None

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
    """Have a worker that hangs ended, unless it is the user's own command."""
    workers = job.cluster.workers
    watchdog = Watchdog(job.folder.path, workers.hang_seconds, worker, report)
    with nullcontext() if workers.are_in_process else watchdog.watching():
        yield watchdog
