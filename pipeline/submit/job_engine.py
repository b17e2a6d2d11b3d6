"""What is submitted, and the interface that all engines have."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pipeline.config.cluster import Cluster
from pipeline.config.job import Job
from pipeline.config.recipe import Recipe
from pipeline.config.yaml import find_config_file

State = Literal["waiting", "running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class SubmittedTraining:
    """One training, as the command names it, and the run that it makes or goes on with.

    `document` names its recipe, or its `job`, which evaluates it as well. `recipe` and `cluster`
    are resolved; `assignments` are those of `--set`. `index` tells trainings of one submission
    apart: the seed, or the place in the job. `start_from` is a run or a file, by its name on the
    cluster, from which all but the head starts where `new_head` is said.
    """

    document: str
    recipe: Recipe
    cluster: Cluster
    cluster_name: str
    assignments: tuple[str, ...]
    run: str
    index: int | None = None
    start_from: str | None = None
    new_head: bool = False
    job: Job | None = None

    @property
    def document_file(self) -> Path:
        return find_config_file(self.document, "recipes" if self.job is None else "jobs")

    @property
    def cluster_file(self) -> Path:
        return find_config_file(self.cluster_name, "clusters")

    def arguments(self, document: str | None = None, cluster: str | None = None) -> list[str]:
        """Return the arguments of `ilsvrc` that do this; its documents may lie elsewhere."""
        command = ["train"] if self.job is None else ["jobs", "run"]
        documents = [document or self.document, "--on", cluster or self.cluster_name]
        seed = [f"seed={self.index}"] if self.job is None and self.index is not None else []
        sets = [part for text in (*self.assignments, *seed) for part in ("--set", text)]
        start = ["--start-from", self.start_from] if self.start_from else []
        start += ["--new-head"] if self.new_head else []
        return [*command, *documents, *sets, *start, "--run", self.run]


@dataclass(frozen=True)
class SubmittedJob:
    """A training as its engine sees it; `reason` is why it waits or how it failed, if known."""

    id: str
    run: str
    state: State
    reason: str = ""


class JobEngine(Protocol):
    """What every engine can do. All raise `UserError` where it can't be reached."""

    def render(self, trainings: list[SubmittedTraining], command: str) -> str:
        """Return what `submit` hands to the engine, as text; its first line is `command`.

        The engine is not asked, and nothing in the text depends on this machine.
        """

    def submit(self, trainings: list[SubmittedTraining], command: str) -> list[SubmittedJob]:
        """Submit all of `trainings` or, where that fails, none."""

    def jobs(self) -> list[SubmittedJob]:
        """Return the jobs that the engine remembers, newest first."""

    def logs(self, job: SubmittedJob, follow: bool) -> Iterator[str]:
        """Yield what the job printed, in pieces; with `follow` until it ends."""

    def stop(self, job: SubmittedJob) -> str:
        """Have the job save and end; return what will happen, as a sentence."""
