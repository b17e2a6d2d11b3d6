"""The report of one node of a cluster; everything here runs on that node."""

import hashlib
import os
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from pipeline.config.cluster import Cluster
from pipeline.config.recipe import Recipe
from pipeline.data.loading.dali import dali_versions
from pipeline.data.store.store import Store, store_folder
from pipeline.runtime.errors import UserError
from pipeline.runtime.precision import BFLOAT16_CAPABILITY, computes_bfloat16
from pipeline.tracking.mlflow_runs import check_reachable

_SAMPLED_IMAGES = 32  # of each split


@dataclass(frozen=True)
class NodeInspection:
    """What to inspect; `marker` is the file that this node writes for the others to find."""

    recipe: Recipe
    cluster: Cluster
    marker: Path
    environment: dict[str, str]


@dataclass(frozen=True)
class NodeReport:
    """The state of one node; `computes_bfloat16` is of all the workers' devices there.

    CUDA versions are 1000 × major + 10 × minor, as CUDA has them; `driver_cuda` is 0 without a
    driver. Memories are in bytes; `gpu_memory` is all that the smallest GPU has. A `…_problem` is
    empty where there is none. `data_digest` covers the data set's own digest, and the bytes of some
    of its images.
    """

    software: str
    num_gpus: int
    gpu_memory: int
    computes_bfloat16: bool
    driver_cuda: int
    needed_cuda: int
    cpus: int
    free_memory: int
    free_storage: int
    storage_problem: str
    data_digest: str
    data_problem: str
    tracking_problem: str


def inspect_node(inspection: NodeInspection) -> NodeReport:
    """Return this node's report; problems are reported, not raised."""
    os.environ.update(inspection.environment)
    recipe, cluster = inspection.recipe, inspection.cluster
    driver = _query_driver()
    uses_gpu = cluster.workers.device == "gpu"
    dali, dali_cuda = dali_versions()
    torch_cuda = _cuda_number(torch.version.cuda or "0.0")
    storage_problem = _write_marker(inspection.marker)
    folder = store_folder(cluster, recipe.data.name)
    data_digest, data_problem = "", ""
    try:
        data_digest = _digest(Store.open(folder, cluster.cache))
    except (UserError, OSError) as error:
        data_problem = str(error)
    return NodeReport(
        software=f"Python {platform.python_version()}, torch {torch.__version__}, DALI {dali}",
        num_gpus=driver.num_gpus,
        gpu_memory=driver.gpu_memory,
        computes_bfloat16=(
            driver.capability >= BFLOAT16_CAPABILITY
            if uses_gpu
            else computes_bfloat16(torch.device("cpu"))
        ),
        driver_cuda=driver.cuda,
        needed_cuda=max(torch_cuda, dali_cuda),
        cpus=len(os.sched_getaffinity(0)),
        free_memory=psutil.virtual_memory().available,
        free_storage=0 if storage_problem else shutil.disk_usage(inspection.marker.parent).free,
        storage_problem=storage_problem,
        data_digest=data_digest,
        data_problem=data_problem,
        tracking_problem=_tracking_problem(cluster.tracking.uri),
    )


def markers_in(folder: Path) -> list[str]:
    """Return the names of the marker files that this node sees."""
    return sorted(path.name for path in folder.glob("mark-*"))


def node_clock() -> float:
    """Return this node's time, in seconds since 1970."""
    return time.time()


def _write_marker(marker: Path) -> str:
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_bytes(b"ilsvrc")
    except OSError as error:
        return f"{marker.parent.parent}: can't be written: {error.strerror}"
    return ""


def _digest(store: Store) -> str:
    digest = hashlib.sha256(store.digest.encode())
    for name in store.split_names:
        split = store.split(name)
        count = min(_SAMPLED_IMAGES, len(split))
        for image in np.linspace(0, len(split) - 1, count, dtype=int):
            digest.update(split.encoded(int(image)).data)
    return digest.hexdigest()


def _tracking_problem(uri: str) -> str:
    try:
        check_reachable(uri)
    except UserError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class _Driver:
    """What NVIDIA's driver says: GPUs, the least memory and capability of one, its own CUDA."""

    num_gpus: int = 0
    gpu_memory: int = 0
    capability: tuple[int, int] = (0, 0)
    cuda: int = 0


def _query_driver() -> _Driver:
    """Ask the driver, without CUDA, which may be given no GPU here; zeros without one."""
    try:
        import pynvml
    except ImportError:
        return _Driver()
    try:
        pynvml.nvmlInit()
        handles = [*map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))]
        memories = [pynvml.nvmlDeviceGetMemoryInfo(handle).total for handle in handles]
        return _Driver(
            num_gpus=len(memories),
            gpu_memory=min(memories),
            capability=min(map(pynvml.nvmlDeviceGetCudaComputeCapability, handles)),
            cuda=pynvml.nvmlSystemGetCudaDriverVersion_v2(),
        )
    except (pynvml.NVMLError, ValueError):
        return _Driver()


def _cuda_number(version: str) -> int:
    major, minor = version.split(".")[:2]
    return 1000 * int(major) + 10 * int(minor)
