"""A node of a Slurm allocation, as `srun` starts it: Ray's head and the command, or one more.

    srun … python -m pipeline.launch.engines.node train RECIPE …

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

from pipeline.errors import UserError
from pipeline.ray_session import ray_session

_PATIENCE = 300.0  # seconds until all nodes must have joined
_PORTS_A_JOB = 20


def main() -> None:
    """Be this task's node until the command has ended; exit with its status."""
    environment, number = os.environ, int(os.environ["SLURM_JOB_ID"])
    # Jobs that share a machine have ports of their own, below those that systems give out.
    first_port = 20_000 + number % 500 * _PORTS_A_JOB
    address = f"{environment['SLURM_LAUNCH_NODE_IPADDR']}:{first_port}"
    scratch = Path(f"/tmp/ilsvrc-{number}")
    is_head = environment["SLURM_PROCID"] == "0"
    ray = _start_ray(address, first_port, scratch, is_head)
    try:
        if not is_head:
            sys.exit(ray.wait())
        _wait_for_nodes(address, int(environment["SLURM_NNODES"]), ray)
        command = [sys.executable, "-m", "pipeline", *sys.argv[1:]]
        ran = subprocess.run(command, env={**environment, "RAY_ADDRESS": address}, check=False)
        sys.exit(ran.returncode)
    except UserError as error:
        sys.exit(f"ilsvrc: {error}")
    finally:
        ray.terminate()
        ray.wait()
        shutil.rmtree(scratch, ignore_errors=True)


def _start_ray(
    address: str, first_port: int, scratch: Path, is_head: bool
) -> "subprocess.Popen[bytes]":
    host, _, port = address.rpartition(":")
    environment = os.environ
    # Nodes that are one machine, as where this is tested, must not meet here.
    agent_port = first_port + 3 + int(environment["SLURM_NODEID"]) % (_PORTS_A_JOB - 3)
    if is_head:
        place = [
            "--head", f"--node-ip-address={host}", f"--port={port}", f"--temp-dir={scratch}",
            f"--dashboard-port={first_port + 1}", f"--ray-client-server-port={first_port + 2}",
        ]  # fmt: skip
    else:
        _wait_for_port(host, int(port))
        place = [f"--address={address}"]
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


def _wait_for_port(host: str, port: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise UserError(f"Ray's head at {host}:{port} didn't start") from None
            time.sleep(1)


def _wait_for_nodes(address: str, number: int, head: "subprocess.Popen[bytes]") -> None:
    import ray

    host, _, port = address.rpartition(":")
    _wait_for_port(host, int(port))
    deadline = time.monotonic() + _PATIENCE
    with ray_session(address):
        while len(there := [node for node in ray.nodes() if node["Alive"]]) < number:
            if time.monotonic() > deadline or head.poll() is not None:
                names = ", ".join(node["NodeManagerHostname"] for node in there)
                raise UserError(f"{len(there)} of {number} nodes joined Ray ({names}); see above")
            time.sleep(1)


if __name__ == "__main__":
    main()
