"""A node of a Slurm allocation, as `srun` starts it: Ray's head and the command, or one more.

    srun … python -m pipeline.submit.slurm_node train RECIPE …

The first node runs the command once all have joined; the step ends with it. Ray's own
`symmetric-run` is not used since it ends with `ray stop`, which ends every Ray of the user on a
node, other jobs' included.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from pipeline.runtime.errors import UserError
from pipeline.runtime.ray_session import ray_session

_PATIENCE = 300.0  # seconds until all nodes must have joined
_PORTS_A_JOB = 20
_SECONDS_BETWEEN_LOOKS, _MISSES = 3.0, 3


def main() -> None:
    """Be this task's node until the command has ended; the first one exits with its status."""
    environment, number = os.environ, int(os.environ["SLURM_JOB_ID"])
    # Jobs that share a machine have ports of their own, below those that systems give out.
    first_port = 20_000 + number % 500 * _PORTS_A_JOB
    host, scratch = environment["SLURM_LAUNCH_NODE_IPADDR"], Path(f"/tmp/ilsvrc-{number}")
    try:
        if environment["SLURM_PROCID"] == "0":
            sys.exit(_lead(host, first_port, scratch))
        _follow(host, first_port)
    except UserError as error:
        sys.exit(f"ilsvrc: {error}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _lead(host: str, port: int, scratch: Path) -> int:
    """Be Ray's head, run the command when all nodes are there, and return its status."""
    address = f"{host}:{port}"
    ray = _start_ray(
        port, "--head", f"--node-ip-address={host}", f"--port={port}", f"--temp-dir={scratch}",
        f"--dashboard-port={port + 1}", f"--ray-client-server-port={port + 2}",
    )  # fmt: skip
    try:
        _wait_for_nodes(host, port, int(os.environ["SLURM_NNODES"]), ray)
        command = [sys.executable, "-m", "pipeline", *sys.argv[1:]]
        return subprocess.run(
            command, env={**os.environ, "RAY_ADDRESS": address}, check=False
        ).returncode
    finally:
        ray.terminate()
        ray.wait()


def _follow(host: str, port: int) -> None:
    """Be a node of the head's Ray, again if that ends, until the head is gone: all is over then.

    Ray itself would wait a minute for the head to come back.
    """
    _wait_for_port(host, port)
    ray, num_missed = None, 0
    while num_missed < _MISSES:
        if ray is None or ray.poll() is not None:
            ray = _start_ray(port, f"--address={host}:{port}")
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        num_missed = 0 if _is_open(host, port) else num_missed + 1
    if ray:
        ray.terminate()
        ray.wait()


def _start_ray(first_port: int, *place: str) -> "subprocess.Popen[bytes]":
    environment = os.environ
    # Nodes that are one machine, as where this is tested, must not meet here.
    agent_port = first_port + 3 + int(environment["SLURM_NODEID"]) % (_PORTS_A_JOB - 3)
    gpus = environment.get("SLURM_GPUS_ON_NODE")
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *place,
        f"--num-cpus={environment['SLURM_CPUS_PER_TASK']}",
        *([f"--num-gpus={gpus}"] if gpus else []),
        f"--dashboard-agent-listen-port={agent_port}", "--disable-usage-stats",
    ]  # fmt: skip
    # Ray would wait for 30 seconds before it ends, as if others still asked for its services.
    at_once = {**environment, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    return subprocess.Popen(command, env=at_once, stdout=subprocess.DEVNULL)


def _is_open(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def _wait_for_port(host: str, port: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not _is_open(host, port):
        if time.monotonic() > deadline:
            raise UserError(f"Ray's head at {host}:{port} didn't start; see above")
        time.sleep(1)


def _wait_for_nodes(host: str, port: int, number: int, head: "subprocess.Popen[bytes]") -> None:
    import ray

    _wait_for_port(host, port)
    deadline = time.monotonic() + _PATIENCE
    with ray_session(f"{host}:{port}"):
        while len(there := [node for node in ray.nodes() if node["Alive"]]) < number:
            if time.monotonic() > deadline or head.poll() is not None:
                names = ", ".join(node["NodeManagerHostname"] for node in there)
                raise UserError(f"{len(there)} of {number} nodes joined Ray ({names}); see above")
            time.sleep(1)


if __name__ == "__main__":
    main()
