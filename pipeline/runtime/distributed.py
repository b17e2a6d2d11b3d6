"""The workers of a training: rank, world size, device, and collective calls.

`rank` is always the global rank. There is no local rank here: the sampler divides the data by
global rank, and the device is a value.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.runtime.errors import UserError


@dataclass(frozen=True)
class Worker:
    """One of `world_size` workers, and the device it computes on."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def device_here(kind: str) -> torch.device:
    """Return this process's device of kind "cpu" or "gpu"; `UserError` if there is no GPU.

    Doesn't initialize CUDA, so that a process that only checks takes no GPU memory.
    """
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            "the cluster asks for GPUs and CUDA finds none here; use --on laptop, or check the "
            "driver with nvidia-smi"
        )
    return torch.device("cuda", 0)


def synchronize(device: torch.device) -> None:
    """Wait until `device` has done all its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use `count` CPU threads while inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def sum_over_workers(values: Tensor, worker: Worker) -> Tensor:
    """Return the element-wise sum of `values` (any shape, the same on all workers) over workers.

    A collective call: every worker must make it.
    """
    total = values.detach().clone()
    if worker.world_size > 1:
        torch.distributed.all_reduce(total)
    return total


def is_so_on_all_workers(is_so: bool, worker: Worker) -> bool:
    """Whether it `is_so` on every worker. A collective call."""
    count = sum_over_workers(torch.tensor(int(is_so), device=worker.device), worker)
    return int(count) == worker.world_size


def same_on_all_workers(value: str | None, worker: Worker) -> str | None:
    """Return rank 0's `value` on every worker. A collective call."""
    if worker.world_size == 1:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
