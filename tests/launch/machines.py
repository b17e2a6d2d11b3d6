"""Two machines made of this one: network namespaces on a bridge, each with a link to cut."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BIN = Path(sys.executable).parent
PORT = 6379  # free in a network that is new


class Machines:
    """Machines 1 and 2, of one CPU each; the files are the same on both, as on shared storage.

    Ray's head is on the first. Needs root.
    """

    def __init__(self) -> None:
        self._name = f"il{os.getpid()}"
        self._rays: dict[int, subprocess.Popen[bytes]] = {}
        # Not pytest's: paths of sockets may have 107 letters.
        self._scratch = Path(tempfile.mkdtemp(prefix="ray-"))
        self._token = self._scratch / "token"
        self._token.write_text(secrets.token_hex(32))

    def address(self, number: int) -> str:
        return f"10.213.77.{number}"

    @property
    def head(self) -> str:
        return f"{self.address(1)}:{PORT}"

    def start(self) -> None:
        _ip("link", "add", self._name, "type", "bridge")
        _ip("link", "set", self._name, "up")
        for number in (1, 2):
            space, link = self._space(number), self._link(number)
            _ip("netns", "add", space)
            _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", link, "master", self._name, "up")
            _ip("-n", space, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip("-n", space, "link", "set", device, "up")
            self.start_ray(number)

    def start_ray(self, number: int) -> None:
        """Start Ray's part of a machine, once more where it ended."""
        role = [f"--address={self.head}"]
        if number == 1:
            role = ["--head", f"--port={PORT}", "--include-dashboard=false"]
        options = {
            "node-ip-address": self.address(number), "num-cpus": 1,
            "temp-dir": self._scratch / str(number), "object-store-memory": 2**27,
        }  # fmt: skip
        command = ["ray", "start", "--block", "--disable-usage-stats", *role]
        command += [f"--{name}={value}" for name, value in options.items()]
        with (self._scratch / f"{number}.log").open("ab") as log:
            self._rays[number] = self.run(number, *command, stdout=log, stderr=log)
        self.await_port(1, PORT)

    def run(self, number: int, *command: str, **options: object) -> "subprocess.Popen[bytes]":
        """Start a command of the environment on a machine."""
        inside = ["ip", "netns", "exec", self._space(number), BIN / command[0], *command[1:]]
        environment = os.environ | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self._token),
            "RAY_health_check_period_ms": "500",
            "RAY_health_check_timeout_ms": "1000",
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
        }
        return subprocess.Popen(inside, env=environment, **options)  # type: ignore[call-overload,no-any-return]

    def cut(self, number: int) -> None:
        """Take a machine's link down."""
        _ip("link", "set", self._link(number), "down")

    def restore(self, number: int) -> None:
        _ip("link", "set", self._link(number), "up")

    def ray_has_ended(self, number: int) -> bool:
        return self._rays[number].poll() is not None

    def stop(self) -> None:
        for ray in self._rays.values():
            ray.terminate()
        for ray in self._rays.values():
            ray.wait(timeout=60)
        for number in (1, 2):
            subprocess.run(["ip", "netns", "del", self._space(number)], check=False)
            subprocess.run(["ip", "link", "del", self._link(number)], check=False)
        _ip("link", "del", self._name)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def await_port(self, number: int, port: int) -> None:
        """Wait until something listens at a machine's address."""
        deadline = time.monotonic() + 120
        probe = f"import socket; socket.create_connection(('{self.address(number)}', {port}), 2)"
        while self.run(1, "python", "-c", probe, stderr=subprocess.DEVNULL).wait():
            assert time.monotonic() < deadline, f"nothing listens at port {port}"
            time.sleep(0.3)

    def _space(self, number: int) -> str:
        return f"{self._name}-{number}"

    def _link(self, number: int) -> str:
        return f"{self._name}c{number}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
