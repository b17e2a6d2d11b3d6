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
    """The state of one node.

    CUDA versions are 1000 × major + 10 × minor, as CUDA has them; `driver_cuda` is 0 without a
    driver. Memories are in bytes; `gpu_memory` is all that the smallest GPU has. A `…_problem` is
    empty where there is none. `data_digest` covers the data set's own digest, and the bytes of some
    of its images.
    """

    software: str
    num_gpus: int
    gpu_memory: int
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
    num_gpus, gpu_memory, driver_cuda = _query_driver()
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
        num_gpus=num_gpus,
        gpu_memory=gpu_memory,
        driver_cuda=driver_cuda,
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


def _query_driver() -> tuple[int, int, int]:
    """Return the number of GPUs, the smallest one's bytes, and the driver's CUDA version; or 0."""
    try:
        import pynvml
    except ImportError:
        return 0, 0, 0
    try:
        pynvml.nvmlInit()
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        memories = [pynvml.nvmlDeviceGetMemoryInfo(handle).total for handle in handles]
        return len(memories), min(memories), pynvml.nvmlSystemGetCudaDriverVersion_v2()
    except (pynvml.NVMLError, ValueError):
        return 0, 0, 0


def _cuda_number(version: str) -> int:
    major, minor = version.split(".")[:2]
    return 1000 * int(major) + 10 * int(minor)
