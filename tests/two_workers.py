"""Two real workers that meet in gloo, without Ray."""

import multiprocessing
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess

import torch


def start_two_workers(work: Callable[..., None], *arguments: object) -> list[BaseProcess]:
    """Start two processes of one process group; each calls `work(rank, *arguments)`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed", "pipeline.launch.heartbeat"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes: list[BaseProcess] = [
        context.Process(target=_work, args=(work, rank, port, arguments)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    return processes


def _work(work: Callable[..., None], rank: int, port: int, arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    work(rank, *arguments)
