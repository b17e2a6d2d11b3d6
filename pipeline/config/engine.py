"""What runs a submitted training: this machine, a Ray cluster, Kubernetes with KubeRay, or Slurm.

Every engine runs the same `ilsvrc train` with the same recipe; what differs is who finds the
machines, and who starts the training again when one is taken away.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from pipeline.config.yaml import Section


class Local(Section):
    """This machine, in the foreground: `submit` is `train`."""

    kind: Literal["local"] = "local"


class RayServer(Section):
    """A Ray cluster that is up, by the address of its dashboard.

    The working tree is sent with each job; Ray takes up to `upload_megabytes` (10⁶ bytes). The
    cluster's own Python environment is used, or with `environment: pinned` one that Ray makes on
    each node from `constraints.txt`. A job that is asked to stop has `stop_seconds` to save.
    """

    kind: Literal["ray"]
    address: str = "http://127.0.0.1:8265"
    environment: Literal["cluster", "pinned"] = "cluster"
    upload_megabytes: PositiveFloat = 100
    stop_seconds: PositiveInt = 120


class Volume(Section):
    """A persistent volume claim and where pods see it."""

    claim: str
    path: str


class Pod(Section):
    """What a pod asks for and is limited to; `memory` as Kubernetes writes it (`64Gi`)."""

    cpus: PositiveInt
    memory: str


class KubeRay(Section):
    """Kubernetes with the KubeRay operator: a RayJob, and a Ray cluster for its time only.

    A worker pod holds `workers_per_node` workers with their CPUs and GPUs, and `memory`, of which
    shared memory is a part. `secrets` are read into the environment of all pods, `volumes` must be
    claims that all pods may mount. A failed job is started again up to `retries` times, on a new
    Ray cluster, and goes on from its checkpoint; the Ray cluster is kept for `keep_seconds` after
    the end. `queue` and `priority` are Kueue's. `context` is one of the kubeconfig's.
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


class Slurm(Section):
    """Slurm: an allocation of nodes on which Ray runs for the time of the job.

    All nodes and the machine of `submit` share the working tree, `runs_dir` and the data set (or
    its source). The training saves `warning_seconds` before the time limit, or before a preemption
    that Slurm is set to announce (`SlurmctldParameters=preempt_send_user_signal`); then the job is
    queued again, for `hours` more. `setup` are lines of bash that come first, `options` further
    ones of sbatch.
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
    setup: tuple[str, ...] = ()
    options: dict[str, str] = Field(default_factory=dict)


Engine = Annotated[Local | RayServer | KubeRay | Slurm, Field(discriminator="kind")]
