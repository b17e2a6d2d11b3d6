"""A real Slurm on this machine: munge, a controller, and nodes that are daemons of one machine."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

NEEDED = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch")

_CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
KillWait=5
MinJobAge=3000
NodeName=n0 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 State=UNKNOWN
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 State=UNKNOWN
PartitionName=low Nodes=n0,n1 Default=YES PriorityTier=1 GraceTime=60 MaxTime=60
PartitionName=high Nodes=n0,n1 PriorityTier=9 PreemptMode=OFF MaxTime=60
"""


@dataclass
class SlurmCluster:
    """Two nodes of two CPUs; the partition `high` takes them from jobs of `low`."""

    folder: Path
    _daemons: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def configuration(self) -> Path:
        return self.folder / "slurm.conf"

    def start(self, ports: list[int]) -> None:
        host = socket.gethostname()
        for name in ("state", "spool-n0", "spool-n1"):
            (self.folder / name).mkdir()
        text = _CONFIGURATION.format(host=host, folder=self.folder, ports=ports)
        self.configuration.write_text(text)
        self.folder.chmod(0o755)  # munge refuses a socket that others might replace
        key = self.folder / "munge.key"
        subprocess.run(["mungekey", f"--keyfile={key}", "--create"], check=True)
        self._daemon(
            "munged", "--foreground", f"--socket={self.folder / 'munge.socket'}",
            f"--key-file={key}", f"--pid-file={self.folder / 'munged.pid'}",
            f"--log-file={self.folder / 'munged.log'}", f"--seed-file={self.folder / 'seed'}",
        )  # fmt: skip
        _await((self.folder / "munge.socket").exists, self)
        self._daemon("slurmctld", "-D", "-f", str(self.configuration))
        for node in ("n0", "n1"):
            self._daemon("slurmd", "-D", "-f", str(self.configuration), "-N", node)
        _await(lambda: self.ask("sinfo", "--noheader", "--format=%T").split() == ["idle"], self)

    def ask(self, *command: str) -> str:
        environment = {**os.environ, "SLURM_CONF": str(self.configuration)}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=30
        )
        return done.stdout

    def stop(self) -> None:
        self.ask("scancel", "--me")
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in self._daemons:
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def log(self) -> str:
        return (self.folder / "daemons.log").read_text(errors="replace")

    def _daemon(self, name: str, *arguments: str) -> None:
        program = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
        with (self.folder / "daemons.log").open("ab") as log:
            self._daemons.append(
                subprocess.Popen([str(program), *arguments], stdout=log, stderr=log)
            )


def _await(is_there: Callable[[], bool], cluster: SlurmCluster) -> None:
    deadline = time.monotonic() + 30
    while not is_there():
        assert time.monotonic() < deadline, cluster.log()
        time.sleep(0.1)
