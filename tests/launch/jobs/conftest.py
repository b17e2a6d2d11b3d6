"""Engines that run for real: a Ray cluster, and Slurm where it is installed."""

import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_head import RayHead
from slurm_cluster import NEEDED, SlurmCluster


def free_ports(number: int) -> list[int]:
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports


@pytest.fixture(scope="session")
def ray_head() -> Iterator[RayHead]:
    head = RayHead()
    head.start(free_ports(4))
    yield head
    head.stop()


@pytest.fixture(scope="session")
def slurm_session() -> Iterator[SlurmCluster]:
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    if missing := [name for name in NEEDED if not shutil.which(name, path=path)]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    cluster = SlurmCluster(folder)
    try:
        cluster.start(free_ports(3))
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slurm(slurm_session: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    """Slurm, as this process's user sees it."""
    monkeypatch.setenv("SLURM_CONF", str(slurm_session.configuration))
    return slurm_session
