"""A Ray cluster that is up, as `ray start --head` leaves one: with a token, on ports of its own."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

BIN = Path(sys.executable).parent


class RayHead:
    """One node of two CPUs; `environment` is what its users have in theirs."""

    def start(self, ports: list[int]) -> None:
        port, dashboard, agent, client = ports
        # Not pytest's: paths of sockets may have 107 letters.
        self._scratch = Path(tempfile.mkdtemp(prefix="ray-"))
        token = self._scratch / "token"
        token.write_text(secrets.token_hex(32))
        self.address = f"http://127.0.0.1:{dashboard}"
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        options = {
            "node-ip-address": "127.0.0.1", "port": port, "dashboard-port": dashboard,
            "dashboard-agent-listen-port": agent, "ray-client-server-port": client,
            "temp-dir": self._scratch / "r", "num-cpus": 2,
        }  # fmt: skip
        self._log = self._scratch / "head.log"
        environment = os.environ | self.environment | {
            "PATH": f"{BIN}:{os.environ['PATH']}", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        }  # fmt: skip
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [BIN / "ray", "start", "--head", "--block", "--disable-usage-stats",
                 *(f"--{name}={value}" for name, value in options.items())],
                env=environment, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + 90
        while not self._takes_jobs(token.read_text()):
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.2)

    @property
    def token(self) -> str:
        return Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _takes_jobs(self, token: str) -> bool:
        request = urllib.request.Request(f"{self.address}/api/jobs/")
        request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
