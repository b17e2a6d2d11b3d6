"""The device that a worker computes on, and whether it computes the same bits every time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.runtime.errors import UserError


@contextmanager
def computing_on(device: torch.device, *, deterministic: bool) -> Iterator[None]:
    """Make `device` the current one while inside, and choose how its algorithms are chosen.

    On a GPU, unless `deterministic`, cuDNN tries its algorithms on the first batch of each shape
    and takes the fastest. A deterministic one gives the same bits on the same kind of GPU; where an
    operation has none, `UserError` is raised.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
        if deterministic:
            # cuBLAS reads it when it starts; two sizes are deterministic, this is the faster.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    _use_deterministic(deterministic)
    try:
        with fastest_by_trial(not deterministic):
            yield
    except RuntimeError as error:
        if operation := _nondeterministic_operation(error):
            raise UserError(
                f"cluster.deterministic: {operation} has no deterministic implementation on "
                f"{device.type}; change the network, or add --set cluster.deterministic=false"
            ) from error
        raise
    finally:
        _use_deterministic(before)


@contextmanager
def fastest_by_trial(is_on: bool) -> Iterator[None]:
    """While inside, have cuDNN try its algorithms for each new shape; off, it guesses."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = is_on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _use_deterministic(mode: bool) -> None:
    if mode != torch.are_deterministic_algorithms_enabled():  # a call imports for seconds
        torch.use_deterministic_algorithms(mode)


def _nondeterministic_operation(error: RuntimeError) -> str:
    operation, found, _ = str(error).partition(" does not have a deterministic implementation")
    return operation.split()[-1] if found else ""
