"""The exact commands that repeat a run, as far as its own records go."""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.config.cluster import Cluster
from pipeline.config.recipe import Recipe, load_recipe
from pipeline.config.yaml import Section, config_files, digest, flatten, read_yaml, validate
from pipeline.reports.run_cost import fixed_workers
from pipeline.results.measured import Measured
from pipeline.runtime.errors import UserError
from pipeline.tracking.queries import TrackedRun

# With more, the recipe in the run's folder says it better.
_MOST_CHANGES = 8


@dataclass(frozen=True)
class Repetition:
    """A line each for a shell, and what they leave open.

    Without a note, the recipe's digest was held against the run's.
    """

    lines: tuple[str, ...]
    note: str = ""


def repetition(run: TrackedRun, results: Sequence[Measured]) -> Repetition:
    """Say how to train `run` again, and to measure each of its `results`."""
    if run.tags.get("kind") == "evaluation":
        return _evaluated_again(run, results)
    recipe = _recipe_with_changes(run.params, run.tags.get("recipe.digest", ""))
    train = ["ilsvrc", "train", recipe[0] if recipe else f"runs/{run.name}/recipe.yaml"]
    train += _cluster(run.params)
    for change in recipe[1:]:
        train += ["--set", change]
    if start := run.tags.get("start.from"):
        train += ["--start-from", start]
    lines = [shlex.join([*train, "--run", f"{run.name}-again"])]
    if commit := run.tags.get("git.commit"):
        is_dirty = run.tags.get("git.dirty") == "yes"
        dirty = " # and changes that were not committed" if is_dirty else ""
        lines.insert(0, f"git checkout {commit[:12]}{dirty}")
    lines += sorted(set(_evaluations(run, results)))
    note = "" if recipe else "No recipe of configs/recipes gives this one; its folder's does."
    return Repetition(tuple(lines), note)


def _evaluated_again(run: TrackedRun, results: Sequence[Measured]) -> Repetition:
    """Say how to evaluate what was trained elsewhere, or an ensemble of other runs."""
    about = {k.removeprefix("evaluation."): v for k, v in run.params.items()}
    protocol = about.get("protocol", "").removesuffix("-weighted")
    split = results[0].key.split if results else about.get("split", "")
    where = ["--split", split, "--protocol", protocol]
    # ('0.75 × one', '0.25 × other'), or the names alone where all weigh the same.
    members = re.findall(r"'(?:(\S+) × )?([^']*)'", about.get("members", ""))
    if members:
        names, weights = [name for _, name in members], [weight for weight, _ in members]
        shares = ["--weights", ",".join(weights)] if all(weights) else []
        line = shlex.join(["ilsvrc", "ensemble", *names, *shares, *where])
        return Repetition((line,), "Its networks are evaluated first.")
    named = ["--network", about.get("network", ""), "--data", about.get("data", "")]
    line = shlex.join(["ilsvrc", "evaluate", *named, *where])
    digest = run.tags.get("weights.digest", "")[:16]
    return Repetition((f"{line} --weights FILE",), f"FILE: of weights with the digest {digest}.")


def _evaluations(run: TrackedRun, results: Iterable[Measured]) -> Iterator[str]:
    for result in results:
        key = result.key
        own = (run.params.get("recipe.data.test_split"), run.tags.get("protocol"))
        if (key.split, key.protocol) == own:
            continue  # as the training itself measures at its end
        data, _, split = key.split.rpartition(".")  # of other data than the training's
        where = [*(["--data", data] if data else []), "--split", split]
        by = ["--protocol", key.protocol] if key.protocol != own[1] else []
        yield shlex.join(["ilsvrc", "evaluate", f"{run.name}-again", *where, *by])


def _recipe_with_changes(params: Mapping[str, str], wanted: str) -> list[str]:
    """Return the recipe of `configs/recipes` that differs least, and the differences; or nothing.

    Nothing where no recipe with a few other values has the run's digest.
    """
    prefix = "recipe."
    theirs = {k.removeprefix(prefix): v for k, v in params.items() if k.startswith(prefix)}
    best: list[str] | None = None
    for name, own in _known(Recipe, "recipes"):
        if {key for key in own if not key.startswith("expect")} != {
            key for key in theirs if not key.startswith("expect")
        }:
            continue
        changes = [
            f"{key}={_yaml(theirs[key])}"
            for key, value in own.items()
            if not key.startswith("expect") and theirs[key] != value
        ]
        if len(changes) <= _MOST_CHANGES and (best is None or len(changes) < len(best) - 1):
            best = [name, *changes]
    return best if best and _has_digest(best, wanted) else []


def _has_digest(recipe: list[str], wanted: str) -> bool:
    try:
        return digest(load_recipe(recipe[0], recipe[1:]).without_expectation()) == wanted
    except UserError:
        return False


def _yaml(text: str) -> str:
    return "null" if text == "None" else text


def _cluster(params: Mapping[str, str]) -> list[str]:
    """Name the cluster of `configs/clusters` that differs least, and another number of workers.

    The result needs no more.
    """
    prefix = "cluster."
    theirs = {k.removeprefix(prefix): v for k, v in params.items() if k.startswith(prefix)}
    known = dict(_known(Cluster, "clusters"))
    if not known:
        return []

    def num_differences(name: str) -> int:
        return sum(theirs.get(key) != value for key, value in known[name].items())

    chosen = min(known, key=num_differences)
    count = fixed_workers(params)
    if count is None or str(count) == known[chosen].get("workers.count"):
        return ["--on", chosen]
    return ["--on", chosen, "--set", f"cluster.workers.count={count}"]


def _known(kind: type[Section], folder: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the documents of `configs/<folder>` without mistakes, their values as tracked."""
    for path in config_files(folder):
        try:
            document = validate(kind, read_yaml(path), path)
        except UserError:
            continue
        yield path.stem, {key: str(value) for key, value in flatten(document).items()}
