"""What is submitted, and what an engine says about it afterwards."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pipeline.config.cluster import Cluster
from pipeline.config.recipe import Recipe
from pipeline.config.yaml import find_config_file

State = Literal["waiting", "running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class SubmittedTraining:
    """One training, as the command names it, and the run that it will be or go on with.

    `recipe` and `cluster` are resolved; `assignments` are those of `--set`, to which a `seed` adds
    its own. `start_from` is a run or a file, by its name where the training will be.
    """

    recipe: Recipe
    recipe_name: str
    cluster: Cluster
    cluster_name: str
    assignments: tuple[str, ...]
    seed: int | None
    run: str
    start_from: str | None = None

    @property
    def recipe_file(self) -> Path:
        return find_config_file(self.recipe_name, "recipes")

    @property
    def cluster_file(self) -> Path:
        return find_config_file(self.cluster_name, "clusters")

    def arguments(self, recipe: str | None = None, cluster: str | None = None) -> list[str]:
        """Return the arguments of `ilsvrc` that train this; its documents may lie elsewhere."""
        where = [recipe or self.recipe_name, "--on", cluster or self.cluster_name]
        chosen = [] if self.seed is None else [f"seed={self.seed}"]
        sets = [part for text in (*self.assignments, *chosen) for part in ("--set", text)]
        start = ["--start-from", self.start_from] if self.start_from else []
        return ["train", *where, *sets, *start, "--run", self.run]


@dataclass(frozen=True)
class SubmittedJob:
    """A job as its engine sees it; `reason` says why it waits or how it failed, if known."""

    id: str
    run: str
    state: State
    reason: str = ""


class JobEngine(Protocol):
    """What every kind of engine can do. All raise `UserError` where it can't be reached."""

    def render(self, trainings: list[SubmittedTraining], command: str) -> str:
        """Return what `submit` hands to the engine, as text; `command` is told in its first line.

        Nothing is asked of the engine, and nothing in the text depends on this machine.
        """

    def submit(self, trainings: list[SubmittedTraining], command: str) -> list[SubmittedJob]:
        """Hand over all of `trainings` or, where that fails, none."""

    def jobs(self) -> list[SubmittedJob]:
        """Return the jobs that the engine remembers, newest first."""

    def logs(self, job: SubmittedJob, follow: bool) -> Iterator[str]:
        """Yield what the job printed, in pieces; with `follow` until it ends."""

    def stop(self, job: SubmittedJob) -> str:
        """Have the job save and end; return what will happen, as a sentence."""
