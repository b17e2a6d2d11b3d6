"""The nodes of a cluster, each asked by a Ray task on it at the same time."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.checks.node_report import NodeReport, Question, inspect_node, marks_in, node_clock
from pipeline.config.cluster import Cluster
from pipeline.config.recipe import Recipe
from pipeline.launch.ray_train import credentials
from pipeline.runtime.errors import UserError

_PATIENCE = 40  # seconds, for a node to answer


@dataclass(frozen=True)
class Node:
    """One node: its name for people, Ray's GPUs and CPUs there, its report, and its clock.

    `sees` are the marks that it found; `skew` is its clock minus this one's, as near as it is sure.
    """

    name: str
    gpus: int
    cpus: float
    report: NodeReport
    sees: tuple[str, ...]
    skew: float


def ask_nodes(recipe: Recipe, cluster: Cluster, folder: Path) -> list[Node]:
    """Have every node look at itself, leave a mark in `folder`, and say which marks it sees.

    Raises `UserError` that names a node which doesn't answer, or can't.
    """
    import ray

    there = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    addresses = [node["NodeManagerAddress"] for node in there.values()]
    names = {
        node_id: address if addresses.count(address) == 1 else f"{address} ({node_id[:6]})"
        for node_id, address in zip(there, addresses, strict=True)
    }
    reports: dict[str, NodeReport] = _on_every(
        names, inspect_node, lambda node_id: Question(
            recipe, cluster, folder / f"mark-{node_id[:12]}", credentials()
        ),
    )  # fmt: skip
    sees: dict[str, list[str]] = _on_every(names, marks_in, lambda node_id: folder)
    return [
        Node(
            name=name,
            gpus=int(there[node_id]["Resources"].get("GPU", 0)),
            cpus=there[node_id]["Resources"].get("CPU", 0),
            report=reports[node_id],
            sees=tuple(sees[node_id]),
            skew=_skew(node_id, name),
        )
        for node_id, name in names.items()
    ]


def _on_every(
    names: Mapping[str, str], function: Callable[..., Any], question: Callable[[str], object]
) -> dict[str, Any]:
    """Call `function` once on each node, at the same time; `UserError` names who is silent."""
    import ray

    asked = {_on(node_id, function, question(node_id)): node_id for node_id in names}
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_PATIENCE)
    if silent:
        raise _silent(", ".join(names[asked[task]] for task in silent))
    answers = {}
    for task in answered:
        try:
            answers[asked[task]] = ray.get(task)
        except ray.exceptions.RayError as error:
            what = str(error).strip().splitlines()[-1]
            raise UserError(
                f"{names[asked[task]]}: {what}; the same project and packages must be on every node"
            ) from None
    return answers


def _on(node_id: str, function: Callable[..., Any], *arguments: object) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(function)
    place = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return task.options(scheduling_strategy=place).remote(*arguments)


def _skew(node_id: str, name: str) -> float:
    """Return how far a node's clock is from this one's at least; the quickest of three answers."""
    import ray

    answers = []
    for _ in range(3):
        before = time.time()
        try:
            there = ray.get(_on(node_id, node_clock), timeout=_PATIENCE)
        except ray.exceptions.RayError:
            raise _silent(name) from None
        after = time.time()
        answers.append((after - before, there - (before + after) / 2))
    took, skew = min(answers)
    return math.copysign(max(0.0, abs(skew) - took / 2), skew)


def _silent(names: str) -> UserError:
    return UserError(
        f"{names}: no answer in {_PATIENCE} s; is the node up, and has it room for a process?"
    )
