"""One node of a Slurm allocation, as `srun` starts it: Ray's head and the command, or a worker.

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

_JOIN_SECONDS = 300.0  # until all nodes must have joined
_PORTS_PER_JOB = 20
_POLL_SECONDS, _MAX_MISSES = 3.0, 3


def main() -> None:
    """Run this task's node until the command has ended; the first exits with its status."""
    environment, number = os.environ, int(os.environ["SLURM_JOB_ID"])
    # Each job on a machine has its own ports, below the ephemeral ones.
    first_port = 20_000 + number % 500 * _PORTS_PER_JOB
    host, scratch = environment["SLURM_LAUNCH_NODE_IPADDR"], Path(f"/tmp/ilsvrc-{number}")
    try:
        if environment["SLURM_PROCID"] == "0":
            sys.exit(_run_head(host, first_port, scratch))
        _run_worker(host, first_port)
    except UserError as error:
        sys.exit(f"ilsvrc: {error}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run_head(host: str, port: int, scratch: Path) -> int:
    """Start Ray's head, run the command when all nodes have joined, and return its status."""
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


def _run_worker(host: str, port: int) -> None:
    """Join the head's Ray, again if that ends, until the head is gone, which ends the job.

    Ray itself would wait a minute for the head to come back.
    """
    _wait_for_port(host, port)
    ray, num_missed = None, 0
    while num_missed < _MAX_MISSES:
        if ray is None or ray.poll() is not None:
            ray = _start_ray(port, f"--address={host}:{port}")
        time.sleep(_POLL_SECONDS)
        num_missed = 0 if _is_open(host, port) else num_missed + 1
    if ray:
        ray.terminate()
        ray.wait()


def _start_ray(first_port: int, *options: str) -> "subprocess.Popen[bytes]":
    environment = os.environ
    # Differs between nodes, which may be one machine, as in tests.
    agent_port = first_port + 3 + int(environment["SLURM_NODEID"]) % (_PORTS_PER_JOB - 3)
    gpus = environment.get("SLURM_GPUS_ON_NODE")
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options,
        f"--num-cpus={environment['SLURM_CPUS_PER_TASK']}",
        *([f"--num-gpus={gpus}"] if gpus else []),
        f"--dashboard-agent-listen-port={agent_port}", "--disable-usage-stats",
    ]  # fmt: skip
    # Ray would drain for 30 seconds before it ends.
    environment_without_drain = {**environment, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    return subprocess.Popen(command, env=environment_without_drain, stdout=subprocess.DEVNULL)


def _is_open(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def _wait_for_port(host: str, port: int) -> None:
    deadline = time.monotonic() + _JOIN_SECONDS
    while not _is_open(host, port):
        if time.monotonic() > deadline:
            raise UserError(f"Ray's head at {host}:{port} didn't start; see above")
        time.sleep(1)


def _wait_for_nodes(host: str, port: int, num_nodes: int, head: "subprocess.Popen[bytes]") -> None:
    import ray

    _wait_for_port(host, port)
    deadline = time.monotonic() + _JOIN_SECONDS
    with ray_session(f"{host}:{port}"):
        while len(alive := [node for node in ray.nodes() if node["Alive"]]) < num_nodes:
            if time.monotonic() > deadline or head.poll() is not None:
                names = ", ".join(node["NodeManagerHostname"] for node in alive)
                raise UserError(
                    f"{len(alive)} of {num_nodes} nodes joined Ray ({names}); see above"
                )
            time.sleep(1)


if __name__ == "__main__":
    main()
