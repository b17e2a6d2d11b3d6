"""Trainings on this machine, in the foreground: runs are found by their folders."""

import fcntl
import shlex
from collections.abc import Iterator

from pipeline.config.cluster import Cluster
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.errors import UserError
from pipeline.submit.job_engine import State, SubmittedJob, SubmittedTraining


class LocalRuns:
    """The runs of a folder on this machine."""

    def __init__(self, cluster: Cluster) -> None:
        self._folder = cluster.runs_dir

    def render(self, trainings: list[SubmittedTraining], command: str) -> str:
        lines = [shlex.join(["ilsvrc", *arguments]) for arguments in local_commands(trainings)]
        return "\n".join([f"# {command}", *lines, ""])

    def submit(self, trainings: list[SubmittedTraining], command: str) -> list[SubmittedJob]:
        raise NotImplementedError("the command itself trains")

    def jobs(self) -> list[SubmittedJob]:
        records = self._folder.glob("*/run.json")
        newest_first = sorted(records, key=lambda path: path.stat().st_mtime, reverse=True)
        folders = [RunFolder(path.parent) for path in newest_first]
        return [SubmittedJob(folder.name, folder.name, _state(folder)) for folder in folders]

    def logs(self, job: SubmittedJob, follow: bool) -> Iterator[str]:
        errors = RunFolder(self._folder / job.run).errors
        if not errors.is_file():
            raise UserError(f"run '{job.run}' prints to the terminal in which it was started")
        yield errors.read_text(encoding="utf-8")

    def stop(self, job: SubmittedJob) -> str:
        if job.state != "running":
            raise UserError(f"run '{job.run}' isn't being trained, it is {job.state} already")
        RunFolder(self._folder / job.run).stop_request.touch()
        return "it saves after this step, and ends"


def local_commands(trainings: list[SubmittedTraining]) -> list[list[str]]:
    """Return the arguments of `ilsvrc` for each training, or one command for all of a job."""
    commands = [training.arguments() for training in trainings]
    return [commands[0][: -len(["--run", "NAME"])]] if trainings[0].job else commands


def _state(folder: RunFolder) -> State:
    if _is_held(folder):
        return "running"
    if folder.is_trained:
        return "finished"
    return "failed" if folder.errors.exists() else "stopped"


def _is_held(folder: RunFolder) -> bool:
    lock = folder.path / ".lock"
    if not lock.exists():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
