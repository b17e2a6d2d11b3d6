"""A job: trainings, the protocols to evaluate them by, and the published results to meet.

`ilsvrc submit jobs/resnet152.yaml --on CLUSTER` trains and evaluates all that a document says. The
job is named after its file.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, JsonValue, PositiveInt

from pipeline.config.protocol import TestProtocol, parse_protocol
from pipeline.config.recipe import Recipe, Seed, default_run_name, load_recipe
from pipeline.config.yaml import Section, find_config_file, read_yaml, validate
from pipeline.runtime.errors import UserError
from pipeline.runtime.names import suggest

Values = Annotated[tuple[JsonValue, ...], Field(min_length=1)]


class TrainingGroup(Section):
    """Trainings of one recipe: with each of `seeds`, at each point of `grid`.

    `set` holds values that all of them have, `grid` the values of which each has one; both by the
    recipe's keys (`optimizer.learning_rate`).
    """

    recipe: str
    set: dict[str, JsonValue] = Field(default_factory=dict)
    grid: dict[str, Values] = Field(default_factory=dict)
    seeds: tuple[Seed, ...] = ()

    def assignments(self) -> Iterator[tuple[str, ...]]:
        """Yield the overrides (`key=value`) of each training."""
        axes: list[list[tuple[str, Any]]] = [
            [(key, value) for value in values] for key, values in self.grid.items()
        ]
        if self.seeds:
            axes.append([("seed", seed) for seed in self.seeds])
        for point in itertools.product(*axes):
            values = [*self.set.items(), *point]
            yield tuple(f"{key}={json.dumps(value)}" for key, value in values)


class ExpectedResult(Section):
    """A published result by its key, as in `results/published.yaml`."""

    network: str
    training_data: str
    split: str
    protocol: str
    ensemble_size: PositiveInt = 1
    extra_data: str = "none"


class JobDocument(Section):
    """What a job's file says.

    Each training is evaluated by its recipe's own protocol and by those of `evaluate` and
    `ensemble`; by those of `ensemble`, so is the average of all trainings' predictions. `expect`
    are the published results to hold the job's against.
    """

    trainings: Annotated[tuple[TrainingGroup, ...], Field(min_length=1)]
    evaluate: tuple[str, ...] = ()
    ensemble: tuple[str, ...] = ()
    expect: tuple[ExpectedResult, ...] = ()


@dataclass(frozen=True)
class JobMember:
    """One training of a job.

    `protocols` are all that it is evaluated by, its recipe's own first; `ensemble` those of the
    job's ensembles, by the job's names for them.
    """

    recipe_name: str
    recipe: Recipe
    protocols: tuple[TestProtocol, ...]
    ensemble: dict[str, TestProtocol]

    @property
    def run(self) -> str:
        return default_run_name(Path(self.recipe_name).stem, self.recipe)


@dataclass(frozen=True)
class Job:
    """A job with its recipes and protocols resolved."""

    name: str
    document: JobDocument
    members: tuple[JobMember, ...]

    def member(self, run: str) -> JobMember:
        """Return the training that makes `run`; `UserError` if there is none."""
        for member in self.members:
            if member.run == run:
                return member
        known = suggest(run, [member.run for member in self.members])
        raise UserError(f"job {self.name} has no run '{run}'; {known}")


def is_job(file: str) -> bool:
    """Whether the document `file` is a job rather than a recipe, which may be a name as well.

    Raises `UserError` for one that could be both, or neither.
    """
    if not file.endswith((".yaml", ".yml")):
        return False
    kinds = {"trainings", "network"} & read_yaml(find_config_file(file, "recipes")).keys()
    if len(kinds) != 1:
        raise UserError(f"{file}: a job has the key `trainings`, a recipe `network`; write one")
    return kinds == {"trainings"}


def load_job(file: str) -> Job:
    """Read a job and the recipes that it names.

    Raises `UserError` that names the file and the key, for a protocol that a network can't be
    tested by, and for trainings that are the same.
    """
    path = find_config_file(file, "jobs")
    document = validate(JobDocument, read_yaml(path), path)
    try:
        members = tuple(_members(document))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    runs = [member.run for member in members]
    for run in runs:
        if runs.count(run) > 1:
            raise UserError(f"{path}: run {run} is there twice; change its seed or a value")
    if document.ensemble and len(runs) < 2:
        raise UserError(f"{path}: 'ensemble' needs two trainings or more; add `seeds`")
    return Job(path.stem, document, members)


def _members(document: JobDocument) -> Iterator[JobMember]:
    for group in document.trainings:
        for assignments in group.assignments():
            recipe = load_recipe(group.recipe, list(assignments))
            own, size = recipe.evaluation, recipe.input.size
            sides = recipe.augmentation.trained_sides
            by_name = {
                name: parse_protocol(name, size, own, sides)
                for name in (*document.evaluate, *document.ensemble)
            }
            for name, protocol in by_name.items():
                if recipe.input.dimensions == 1 and protocol != own:
                    raise UserError(
                        f"{group.recipe} is tested on whole signals only; leave out {name}"
                    )
            protocols = [own, *by_name.values()]
            yield JobMember(
                group.recipe,
                recipe,
                protocols=tuple(p for i, p in enumerate(protocols) if p not in protocols[:i]),
                ensemble={name: by_name[name] for name in document.ensemble},
            )
