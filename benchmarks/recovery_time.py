"""How long a training pauses when one of its workers dies."""

import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Thread

import psutil

from pipeline.benchmark.timing import Series
from pipeline.config.cluster import load_cluster
from pipeline.config.recipe import load_recipe
from pipeline.data.sources.prepare import prepare_digits
from pipeline.launch.events import Event, Message, StepsReport, WorkerStarted
from pipeline.launch.ray_train import run_on_workers
from pipeline.launch.training_job import TrainingJob
from pipeline.runs.run_folder import RunFolder, RunRecord
from pipeline.runtime.errors import InterruptedByUserError
from pipeline.tracking.mlflow_runs import start_run
from pipeline.trainer.worker import train

_CPUS_OF_DIGITS = ["workers.count=2", "workers.cpus=1", "workers.device=cpu", "loading.threads=1"]
_STEPS_BETWEEN_DEATHS = 10
_ENDLESS = 10**6  # epochs
_SECONDS_TO_END = 60


@dataclass(frozen=True)
class Recovery:
    """Seconds, a value a death of a worker.

    `detection` is from the death to the end of the other worker, which Ray ends; `restart` until a
    new worker begins, `restoring` until the checkpoint is loaded, and `first_step` to the end of
    the next optimizer step, for which the loader starts.
    """

    detection: Series
    restart: Series
    restoring: Series
    first_step: Series

    @property
    def total(self) -> Series:
        parts = zip(*(series.values for series in vars(self).values()), strict=True)
        return Series(tuple(map(sum, parts)))


def measure_recovery(folder: Path, deaths: int) -> Recovery:
    """Train LeNet-5 on the digits with two workers, and kill one of them `deaths` times."""
    prepare_digits(folder / "digits", lambda done, total: None)
    uri = f"sqlite:///{folder}/mlflow.db"
    run = RunFolder(folder / "run")
    run.path.mkdir()
    run.write_record(
        RunRecord("", start_run(uri, "recovery", run_name="recovery", params={}, tags={}))
    )
    assignments = [*_CPUS_OF_DIGITS, f"workers.max_failures={deaths}", f"data_dir={folder}"]
    assignments.append("saving={log_every_steps: 1, checkpoint_every_steps: 5}")
    job = TrainingJob(
        load_recipe("smoke", [f"epochs={_ENDLESS}"]), load_cluster("laptop", assignments), run, uri
    )
    killer = _Killer(run, deaths)
    with suppress(InterruptedByUserError):
        run_on_workers(train, job, killer.handle)
    return killer.recovery()


class _Killer:
    """Kills a worker every few steps, and records when the training is back."""

    def __init__(self, run: RunFolder, deaths: int) -> None:
        self._run, self._deaths = run, deaths
        self._steps = 0
        self._times: list[dict[str, float]] = []  # of each death and what follows, by name

    def handle(self, event: Event) -> None:
        if isinstance(event, WorkerStarted):
            self._record("start")
        elif isinstance(event, Message) and event.text.startswith("goes on"):
            self._record("restoration")
        elif isinstance(event, StepsReport):
            self._steps += 1
            # A report from before the death may come late.
            if self._times and {"step", "restoration"} & self._times[-1].keys() == {"restoration"}:
                self._record("step")
                self._steps = 0
            if self._steps == _STEPS_BETWEEN_DEATHS:
                self._kill()

    def recovery(self) -> Recovery:
        names = ("death", "end", "start", "restoration", "step")
        spans = [[times[b] - times[a] for a, b in pairwise(names)] for times in self._times]
        return Recovery(*(Series(tuple(values)) for values in zip(*spans, strict=True)))

    def _record(self, name: str) -> None:
        if self._times:
            self._times[-1].setdefault(name, time.time())

    def _kill(self) -> None:
        if len(self._times) == self._deaths:
            self._run.stop_request.touch()
            return
        other, *_, victim = worker_processes()
        self._times.append({"death": time.time()})
        victim.kill()
        Thread(target=self._record_end, args=(other,), daemon=True).start()

    def _record_end(self, worker: psutil.Process) -> None:
        worker.wait(_SECONDS_TO_END)
        self._record("end")


def worker_processes() -> list[psutil.Process]:
    """Return the workers of this process's training, the oldest first."""
    workers = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it may end meanwhile
            if "RayTrainWorker" in " ".join(process.cmdline()):
                workers.append(process)
    return workers
