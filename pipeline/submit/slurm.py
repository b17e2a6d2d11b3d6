"""Trainings as jobs of Slurm, by Slurm's own commands."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator

from pipeline.config.cluster import Cluster
from pipeline.config.engine import Slurm
from pipeline.runtime.errors import UserError
from pipeline.submit.job_engine import State, SubmittedJob, SubmittedTraining
from pipeline.submit.sbatch import render_script, runs_of_comment

_STATES: dict[str, State] = {
    "PENDING": "waiting",
    "REQUEUED": "waiting",
    "REQUEUE_HOLD": "waiting",
    "SUSPENDED": "waiting",
    "CONFIGURING": "running",
    "RUNNING": "running",
    "COMPLETING": "running",
    "COMPLETED": "finished",
    "CANCELLED": "stopped",
}
_ALIVE = ("waiting", "running")
_FIELDS = {"JobArrayID": 30, "State": 30, "Reason": 60, "exit_code": 10, "Comment": 2000}
_STOPPED_CODE = 130  # of a training that saved and ended as asked
_REMEDIES = {
    "configuration source": "; set SLURM_CONF, or run this on a machine of the Slurm cluster",
    "contact slurm controller": "; have slurmctld started, or set SLURM_CONF to another cluster's",
    "invalid partition": "; `sinfo` lists them: set engine.partition",
}
_POLL_SECONDS = 3.0


class SlurmJobs:
    """The jobs of this user in a Slurm cluster, as seen from a machine that may submit."""

    def __init__(self, engine: Slurm, cluster: Cluster) -> None:
        self._engine, self._cluster = engine, cluster

    def render(self, trainings: list[SubmittedTraining], command: str) -> str:
        return render_script(trainings, self._engine, command)

    def submit(self, trainings: list[SubmittedTraining], command: str) -> list[SubmittedJob]:
        script = self.render(trainings, command)
        self._cluster.runs_dir.mkdir(parents=True, exist_ok=True)  # Slurm itself makes no folders
        with tempfile.NamedTemporaryFile("w", suffix=".sbatch") as file:
            file.write(script)
            file.flush()
            number = _run("sbatch", "--parsable", file.name).strip().partition(";")[0]
        return [
            SubmittedJob(_id(number, training.index), training.run, "waiting")
            for training in trainings
        ]

    def jobs(self) -> list[SubmittedJob]:
        """Return the jobs that the controller remembers, and older ones where accounts are kept."""
        found = dict(read_lines(_queue("--me")))
        for number, job in read_lines(_accounts()):
            found.setdefault(number, job)
        return sorted(found.values(), key=lambda job: _sort_key(job.id), reverse=True)

    def logs(self, job: SubmittedJob, follow: bool) -> Iterator[str]:
        path = self._cluster.runs_dir / f"slurm-{job.id}.log"
        if not follow and not path.exists():
            raise UserError(f"{path}: not there yet; job {job.id} has not begun, or runs elsewhere")
        # The controller forgets jobs soon after their end, and then refuses to answer.
        follow = follow and job.state in _ALIVE
        position = 0
        while True:
            # Checked before the file is read, so that its last lines are read.
            is_over = not follow or not _is_alive(job.id)
            if path.exists():
                with path.open(encoding="utf-8", errors="replace") as file:
                    file.seek(position)
                    yield file.read()
                    position = file.tell()
            if is_over:
                return
            time.sleep(_POLL_SECONDS)

    def stop(self, job: SubmittedJob) -> str:
        if job.state == "waiting":
            _run("scancel", job.id)
            return "it waited, and is taken out of the queue"
        _run("scancel", "--batch", "--signal=USR2", job.id)
        return "it saves after its step, and ends"


def _is_alive(number: str) -> bool:
    return any(job.state in _ALIVE for _, job in read_lines(_queue(f"--jobs={number}")))


def _queue(which: str) -> str:
    """Return squeue's lines of jobs that the controller has, or had until minutes ago."""
    fields = ",".join(f"{name}:.{width}|" for name, width in _FIELDS.items())
    return _run("squeue", which, "--states=all", "--array", "--noheader", f"--Format={fields}")


def _accounts() -> str:
    """Return sacct's lines in the same form, or nothing where no accounts are kept."""
    fields = "--format=JobID,State,Reason,ExitCode,Comment"
    try:
        return _run(
            "sacct", "--allocations", "--noheader", "--parsable2", "-S", "now-30days", fields
        )
    except UserError:
        return ""


def read_lines(lines: str) -> Iterator[tuple[str, SubmittedJob]]:
    """Yield the number and state of each job of this project, by squeue's or sacct's `lines`."""
    for line in lines.splitlines():
        number, state, reason, status, comment = [part.strip() for part in line.split("|")][:5]
        runs = runs_of_comment(comment)
        run = runs.get(number.partition("_")[2], runs.get(""))
        if run:
            yield number, _job(number, run, state.split()[0], reason, status)


def _job(number: str, run: str, state: str, reason: str, status: str) -> SubmittedJob:
    match known := _STATES.get(state, "failed"):
        case "waiting":
            return SubmittedJob(number, run, known, "" if reason == "None" else reason)
        case "failed" if _exit_code(status) == _STOPPED_CODE:
            return SubmittedJob(number, run, "stopped")
        case "failed":
            how = f"exit code {_exit_code(status)}" if state == "FAILED" else state.lower()
            return SubmittedJob(number, run, known, how)
        case _:
            return SubmittedJob(number, run, known)


def _exit_code(status: str) -> int:
    """Read sacct's `130:0`, or squeue's status as the system's `wait` returns it."""
    code, colon, _ = status.partition(":")
    return int(code) if colon else os.waitstatus_to_exitcode(int(code))


def _sort_key(number: str) -> tuple[int, int]:
    job, _, task = number.partition("_")
    return int(job), int(task or 0)


def _id(number: str, index: int | None) -> str:
    return number if index is None else f"{number}_{index}"


def _run(command: str, *arguments: str) -> str:
    """Run one of Slurm's commands; what it refuses becomes a `UserError` of one line."""
    try:
        done = subprocess.run(
            [command, *arguments], capture_output=True, text=True, check=False, timeout=60
        )
    except FileNotFoundError:
        raise UserError(
            f"{command} is not installed here; run this on a machine of the Slurm cluster, as its "
            f"login node"
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command} got no answer from Slurm's controller in 60 s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"nothing, and ends with {done.returncode}"]
        problem = lines[-1].removeprefix(f"{command}: ")
        remedies = (text for words, text in _REMEDIES.items() if words in problem.lower())
        raise UserError(f"{command} says: {problem}{next(remedies, '')}")
    return done.stdout
