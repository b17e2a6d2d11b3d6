"""What runs a submitted training: this machine, a Ray cluster, Kubernetes with KubeRay, or Slurm.

Every engine runs the same `ilsvrc train` with the same recipe; they differ in how machines are
allocated, and in how a training is restarted when it loses one.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from pipeline.config.yaml import Section


class Local(Section):
    """This machine, in the foreground: `submit` is `train`."""

    kind: Literal["local"] = "local"


class RayServer(Section):
    """A running Ray cluster, by the address of its dashboard.

    The working tree is uploaded with each job, up to `upload_megabytes` (10⁶ bytes). The cluster's
    own Python environment is used, or with `environment: pinned` one that Ray creates on each node
    from `constraints.txt`. A job that is told to stop has `stop_seconds` to save.
    """

    kind: Literal["ray"]
    address: str = "http://127.0.0.1:8265"
    environment: Literal["cluster", "pinned"] = "cluster"
    upload_megabytes: PositiveFloat = 100
    stop_seconds: PositiveInt = 120


class Volume(Section):
    """A persistent volume claim and the path where pods mount it."""

    claim: str
    path: str


class Pod(Section):
    """A pod's resource requests and limits; `memory` in Kubernetes' notation (`64Gi`)."""

    cpus: PositiveInt
    memory: str


class KubeRay(Section):
    """Kubernetes with the KubeRay operator: a RayJob, and a Ray cluster for its duration only.

    A worker pod holds `workers_per_node` workers with their CPUs and GPUs, and `memory`, which
    includes shared memory. `secrets` are read into the environment of all pods; `volumes` must be
    claims that all pods may mount. A failed job is restarted up to `retries` times, on a new Ray
    cluster, from its last checkpoint; the Ray cluster is kept for `keep_seconds` after the end.
    `queue` and `priority` are Kueue's, `priority_class` is Kubernetes' own. `context` is one of the
    kubeconfig's. Pods run as the image's user, who must not be root.
    """

    kind: Literal["kuberay"]
    image: str
    namespace: str = "default"
    context: str | None = None
    workers_per_node: PositiveInt = 1
    memory: str = "16Gi"
    head: Pod = Pod(cpus=2, memory="8Gi")
    volumes: tuple[Volume, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    image_pull_secret: str | None = None
    service_account: str | None = None
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[str, ...] = ()
    retries: NonNegativeInt = 3
    keep_seconds: NonNegativeInt = 600
    stop_seconds: PositiveInt = 120
    queue: str | None = None
    priority: str | None = None
    priority_class: str | None = None


class Slurm(Section):
    """Slurm: an allocation of nodes on which Ray runs for the duration of the job.

    All nodes and the machine of `submit` share the working tree, `runs_dir` and the data set (or
    its source). The training saves `warning_seconds` before the time limit, or before a preemption
    that Slurm is set to announce (`SlurmctldParameters=preempt_send_user_signal`); then the job is
    queued again, for `hours` more. `setup` are lines of bash to run first, `options` further ones
    of sbatch. With a `container`, an image in the notation of enroot and pyxis, the training runs
    in it by its `python`; the working folder, `data_dir`, `runs_dir` and `container_mounts`
    (`/from:/to`) are mounted there.
    """

    kind: Literal["slurm"]
    workers_per_node: PositiveInt = 1
    hours: PositiveFloat = 24
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    memory: str | None = None
    warning_seconds: PositiveInt = 120
    python: str = ".venv/bin/python"
    container: str | None = None
    container_mounts: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    options: dict[str, str] = Field(default_factory=dict)


Engine = Annotated[Local | RayServer | KubeRay | Slurm, Field(discriminator="kind")]
