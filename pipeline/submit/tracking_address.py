"""Whether a submitted training reaches the tracking store that it is told of."""

import os
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from pipeline.config.cluster import Cluster
from pipeline.config.engine import KubeRay, Local, RayServer
from pipeline.runtime.credentials import without_credentials
from pipeline.runtime.errors import UserError
from pipeline.tracking.mlflow_client import REMEDY, sqlite_file

_NAME = "MLFLOW_TRACKING_URI"


@dataclass(frozen=True)
class TrackingAddress:
    """The store's address, and what says it."""

    said_by: str
    uri: str

    def __str__(self) -> str:
        return f"{self.said_by}={without_credentials(self.uri)}"


def check_tracking_address(cluster: Cluster) -> str:
    """Refuse an address that the training can't use; return what to warn of, or nothing.

    cluster: as it is written, since only that is sent. Raises `UserError` for a file where several
    machines train or the machine is another, and for a server on the loopback of another one. Where
    nothing is said, the training has its own machine's address, or refuses to start.
    """
    engine, address = cluster.engine, _address(cluster)
    if isinstance(engine, Local) or not address.uri:
        return ""
    is_elsewhere = isinstance(engine, KubeRay) or (
        isinstance(engine, RayServer) and not _is_loopback(engine.address)
    )
    if sqlite_file(address.uri):
        if is_elsewhere or not cluster.workers.are_on_this_machine:
            raise UserError(
                f"{address} is a file of this machine, and several machines can't share one; set "
                "it to a tracking server"
            )
    elif _is_loopback(address.uri):
        what = f"{address} is each machine's own loopback"
        if is_elsewhere:
            raise UserError(f"{what}, not this one's; name the tracking server's host")
        if not cluster.workers.are_on_this_machine:
            return f"{what}; where the training runs on another than this one, {REMEDY}"
    return ""


def _address(cluster: Cluster) -> TrackingAddress:
    """Return the address that the training gets from here; of the two, the environment's wins."""
    engine = cluster.engine
    if isinstance(engine, KubeRay):
        said_by, uri = f"cluster.engine.environment.{_NAME}", engine.environment.get(_NAME, "")
    else:  # Ray's jobs are given this user's, Slurm's inherit it
        said_by, uri = _NAME, os.environ.get(_NAME, "")
    if uri:
        return TrackingAddress(said_by, uri)
    return TrackingAddress("cluster.tracking.uri", cluster.tracking.uri)


def _is_loopback(uri: str) -> bool:
    host = urlsplit(uri).hostname or ""
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified
