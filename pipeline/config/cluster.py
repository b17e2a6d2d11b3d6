"""Where to train: workers, engine, paths, threads, and speed choices that don't change the result.

Paths are relative to the working directory of the command until `load_cluster` makes them
absolute: Ray starts its workers in other folders.
"""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from upath import UPath

from pipeline.config.engine import Engine, KubeRay, Local, RayServer, Slurm
from pipeline.config.yaml import Section, find_config_file, override, read_yaml, validate
from pipeline.runtime.credentials import credentials_of, without_credentials
from pipeline.runtime.errors import UserError

Folder = Path | UPath


def as_folder(place: str) -> Folder:
    """Return the folder at a path, made absolute, or at a URL (`s3://bucket/data`).

    Raises `UserError` for a URL that is none, or that holds a password: it is recorded with runs
    and named in messages.
    """
    if "://" not in place:
        return Path.cwd() / Path(place).expanduser()
    if credentials_of(place):
        raise UserError(
            f"{without_credentials(place)} was given with a user and password, which runs and "
            f"messages would show; leave them out and set the environment: AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY for s3://, what fsspec reads (FSSPEC_HTTP, …) for others"
        )
    try:
        return UPath(place)
    except ValueError as error:
        raise UserError(f"{place}: {error}; write a path, or a URL as s3://BUCKET/FOLDER") from None


class WorkersConfig(Section):
    """How many workers, and the resources of each.

    One worker on a CPU of this machine is the command's own process, without Ray, unless
    `max_failures` has it start again. `count: 0` makes it so on any cluster, on a GPU too, without
    a watchdog, and raises what fails as it is: for tests and debuggers. Instead of a count, `min`
    and `max` make the training elastic: it shrinks when nodes leave and, checked every
    `resize_seconds`, grows when nodes join, each time continuing from the last checkpoint.

    `gpu` is the model of each worker's GPU, by its name in `ilsvrc plan`, which knows its memory
    and speed where no GPU can be queried.

    When no worker takes a batch for `hang_seconds`, all are ended, which counts as a failure; one
    that waits for a slower one isn't hung. After up to `max_failures` failures the training
    restarts from the last checkpoint. After a scheduler's signal, a training has `grace_seconds` to
    save a checkpoint and stop.
    """

    count: NonNegativeInt | None = None
    min: PositiveInt | None = None
    max: PositiveInt | None = None
    resize_seconds: PositiveFloat = 60
    device: Literal["cpu", "gpu"]
    gpu: str | None = None
    cpus: PositiveInt = 1
    max_failures: NonNegativeInt = 0
    hang_seconds: PositiveFloat = 300
    grace_seconds: PositiveFloat = 30
    ray_address: str = "local"

    @model_validator(mode="after")
    def _counted_or_elastic(self) -> Self:
        given = [value is not None for value in (self.count, self.min, self.max)]
        if given not in ([True, False, False], [False, True, True]):
            raise ValueError("give either count, or min and max")
        if self.min and self.max and self.min > self.max:
            raise ValueError("min must not be above max")
        if self.gpu and self.device == "cpu":
            raise ValueError("gpu is for device: gpu")
        return self

    @property
    def is_elastic(self) -> bool:
        return self.count is None

    @property
    def are_in_process(self) -> bool:
        """Whether the only worker is the command's own process."""
        is_alone = self.count == 1 and self.device == "cpu" and not self.max_failures
        return self.count == 0 or (is_alone and self.ray_address == "local")

    @property
    def are_on_this_machine(self) -> bool:
        """Whether all workers are on this machine, not on nodes of a Ray cluster that is joined."""
        return self.are_in_process or self.ray_address == "local"

    @property
    def fewest(self) -> int:
        """The smallest number of workers that the training runs with."""
        return self.min or max(1, self.count or 0)

    @property
    def most(self) -> int:
        """The largest number of workers that the training runs with."""
        return self.max or max(1, self.count or 0)

    def with_count(self, count: int) -> "WorkersConfig":
        """Return these workers with a fixed count."""
        return self.model_copy(update={"count": count, "min": None, "max": None})


class CommunicationConfig(Section):
    """How workers on several machines find each other and communicate.

    NCCL and gloo use the network `interface` (`ib0`), or choose one themselves. The `rendezvous` is
    at the first worker's address, passed by environment variables or by URL. A worker that waits
    `timeout_seconds` for the others in a collective fails, so that no step may take longer; where
    none of them goes on, `workers.hang_seconds`, if shorter, comes first and says who is late.
    """

    interface: str | None = None
    rendezvous: Literal["env", "tcp"] = "env"
    timeout_seconds: PositiveInt = 600


class LoadingConfig(Section):
    """How a worker loads: by DALI or Pillow, with how many threads.

    Small batches in a row are loaded together, up to a `window` of so many images; `prefetch`
    windows are loaded ahead.

    A worker on a GPU decodes there, or with `decoder: cpu` on the CPU, and goes on on the GPU. Of
    what is decoded there, `hw_decoder_load` is the share of the GPU's JPEG engine, from A100 on.
    """

    backend: Literal["dali", "reference"] = "dali"
    decoder: Literal["gpu", "cpu"] = "gpu"
    hw_decoder_load: Annotated[float, Field(ge=0, le=1)] = 0.65
    threads: PositiveInt = 1
    prefetch: PositiveInt = 2
    window: PositiveInt = 64
    evaluation_batch_size: PositiveInt = 256


class ComputeConfig(Section):
    """How a worker computes a step. None of this changes what is trained, but for rounding.

    `images_at_once` is how many images a worker computes in one pass, rounded down to whole
    micro-batches, of which it takes at least one. Left out, it is one micro-batch on a CPU, and on
    a GPU as many as fit its memory. `engine` runs a pass as PyTorch does ("eager"), as a function
    that it has compiled ("compile"), or as CUDA graphs that it has captured ("graphs").
    """

    images_at_once: PositiveInt | None = None
    engine: Literal["eager", "compile", "graphs"] = "eager"


class TrackingConfig(Section):
    """Where runs are recorded. `MLFLOW_TRACKING_URI` takes precedence over `uri`.

    Without either, `load_cluster` uses a sqlite file in the working directory. Where tracking is
    not `required`, a training starts although the server can't be reached, and is recorded once it
    can.
    """

    uri: str = ""
    experiment: str = "ilsvrc"
    required: bool = True


class SavingConfig(Section):
    """How often to log and to save, and which checkpoints to keep.

    A checkpoint is written at every epoch's end, when `checkpoint_minutes` have passed since the
    last one, and every `checkpoint_every_steps` where that is set. The newest
    `checkpoints_to_keep`, that of the best epoch and that of every `keep_every_epochs` are kept.
    """

    log_every_steps: PositiveInt = 50
    checkpoint_minutes: PositiveFloat = 10
    checkpoint_every_steps: PositiveInt | None = None
    checkpoints_to_keep: Annotated[int, Field(ge=2)] = 3
    keep_every_epochs: PositiveInt | None = None


class CacheConfig(Section):
    """Where a node caches images of remote data sets, and how much of each (1 GB: 10⁹ bytes)."""

    folder: Path
    gigabytes: PositiveFloat


class Cluster(Section):
    """The machine or machines that train.

    `data_dir` is a folder, or a URL as in fsspec (`s3://bucket/data`); credentials come from the
    environment. `stage_to` is a folder on each node's own disk, to which the data set is copied
    before it is read; `cache` keeps only a share of a remote data set there.

    CPUs compute the same bits every time. GPUs do so where `deterministic`, on as many workers with
    the same kind of GPU, and more slowly; a network with a layer that can't is refused.
    """

    workers: WorkersConfig
    engine: Engine = Local()
    network: CommunicationConfig = CommunicationConfig()
    loading: LoadingConfig = LoadingConfig()
    compute: ComputeConfig = ComputeConfig()
    tracking: TrackingConfig = TrackingConfig()
    saving: SavingConfig = SavingConfig()
    data_dir: str = "data"
    stage_to: Path | None = None
    cache: CacheConfig | None = None
    runs_dir: Path = Path("runs")
    channels_last: bool = True
    deterministic: bool = False

    @model_validator(mode="after")
    def _engine_has_its_ray(self) -> Self:
        kind, workers = self.engine.kind, self.workers
        if isinstance(self.engine, RayServer | KubeRay):
            for key, place in {"data_dir": self.data_dir, "runs_dir": str(self.runs_dir)}.items():
                if "://" not in place and not Path(place).is_absolute():
                    raise ValueError(
                        f"engine.kind {kind} trains elsewhere; {key} must be an absolute path there"
                    )
        if kind != "local" and workers.are_on_this_machine and workers.count != 0:
            raise ValueError(f"engine.kind {kind} brings its own Ray; set workers.ray_address=auto")
        if isinstance(self.engine, KubeRay | Slurm):
            each = self.engine.workers_per_node
            if workers.fewest % each or workers.most % each:
                raise ValueError(
                    f"{workers.most} workers don't fill nodes of engine.workers_per_node={each}; "
                    "change one of them"
                )
        return self

    @model_validator(mode="after")
    def _graphs_need_a_gpu(self) -> Self:
        if self.compute.engine == "graphs" and self.workers.device == "cpu":
            raise ValueError("compute.engine: graphs needs workers.device: gpu")
        return self

    def in_this_process(self) -> "Cluster":
        """Return the cluster with the command's own process as the only worker."""
        return self.model_copy(update={"workers": self.workers.with_count(0)})


def default_tracking_uri() -> str:
    """Return the address of the sqlite file in the working directory."""
    return f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def read_cluster(name: str, assignments: list[str] | None = None) -> Cluster:
    """Read cluster `name` (of `configs/clusters`, or a path) with `section.key=value` overrides.

    As it is written. Raises `UserError` that names the file and the key.
    """
    path = find_config_file(name, "clusters")
    return validate(Cluster, override(read_yaml(path), assignments or []), path)


def load_cluster(name: str, assignments: list[str] | None = None) -> Cluster:
    """Read a cluster as `read_cluster` does, with paths and tracking store of this place."""
    cluster, here = read_cluster(name, assignments), Path.cwd()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or cluster.tracking.uri
    return cluster.model_copy(
        update={
            "data_dir": str(as_folder(cluster.data_dir)),
            "stage_to": cluster.stage_to and here / cluster.stage_to.expanduser(),
            "cache": cluster.cache
            and cluster.cache.model_copy(
                update={"folder": here / cluster.cache.folder.expanduser()}
            ),
            "runs_dir": here / cluster.runs_dir.expanduser(),
            "tracking": cluster.tracking.model_copy(update={"uri": uri or default_tracking_uri()}),
        }
    )
