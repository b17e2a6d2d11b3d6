"""The nodes of a cluster, all inspected at the same time by a Ray task on each."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.checks.node_report import (
    NodeInspection,
    NodeReport,
    inspect_node,
    markers_in,
    node_clock,
)
from pipeline.config.cluster import Cluster
from pipeline.config.recipe import Recipe
from pipeline.launch.ray_train import credentials
from pipeline.runtime.errors import UserError

_TIMEOUT = 40  # seconds, for a node to answer


@dataclass(frozen=True)
class Node:
    """One node: its name to show, Ray's GPUs and CPUs there, its report, and its clock.

    `markers` are the marker files that it sees; `clock_skew` is its clock minus this one's, or the
    part of it that is certain, in seconds.
    """

    name: str
    gpus: int
    cpus: float
    report: NodeReport
    markers: tuple[str, ...]
    clock_skew: float


def inspect_nodes(recipe: Recipe, cluster: Cluster, folder: Path) -> list[Node]:
    """Have every node report, write a marker to `folder`, and list the markers that it sees.

    Raises `UserError` that names a node which doesn't answer, or fails.
    """
    import ray

    alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    addresses = [node["NodeManagerAddress"] for node in alive.values()]
    names = {
        node_id: address if addresses.count(address) == 1 else f"{address} ({node_id[:6]})"
        for node_id, address in zip(alive, addresses, strict=True)
    }

    def inspection(node_id: str) -> NodeInspection:
        marker = folder / f"mark-{node_id[:12]}"
        return NodeInspection(recipe, cluster, marker, credentials())

    reports: dict[str, NodeReport] = _call_on_each(names, inspect_node, inspection)
    markers: dict[str, list[str]] = _call_on_each(names, markers_in, lambda node_id: folder)
    return [
        Node(
            name=name,
            gpus=int(alive[node_id]["Resources"].get("GPU", 0)),
            cpus=alive[node_id]["Resources"].get("CPU", 0),
            report=reports[node_id],
            markers=tuple(markers[node_id]),
            clock_skew=_clock_skew(node_id, name),
        )
        for node_id, name in names.items()
    ]


def _call_on_each(
    names: Mapping[str, str], function: Callable[..., Any], argument: Callable[[str], object]
) -> dict[str, Any]:
    """Call `function` on all nodes at the same time; `UserError` names those that don't answer."""
    import ray

    tasks = {_submit(node_id, function, argument(node_id)): node_id for node_id in names}
    finished, pending = ray.wait(list(tasks), num_returns=len(tasks), timeout=_TIMEOUT)
    if pending:
        raise _no_answer(", ".join(names[tasks[task]] for task in pending))
    results = {}
    for task in finished:
        try:
            results[tasks[task]] = ray.get(task)
        except ray.exceptions.RayError as error:
            what = str(error).strip().splitlines()[-1]
            raise UserError(
                f"{names[tasks[task]]}: {what}; the same project and packages must be on every node"
            ) from None
    return results


def _submit(node_id: str, function: Callable[..., Any], *arguments: object) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(function)
    place = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return task.options(scheduling_strategy=place).remote(*arguments)


def _clock_skew(node_id: str, name: str) -> float:
    """Return by how much a node's clock differs at least; by the fastest of three calls."""
    import ray

    answers = []
    for _ in range(3):
        before = time.time()
        try:
            its_time = ray.get(_submit(node_id, node_clock), timeout=_TIMEOUT)
        except ray.exceptions.RayError:
            raise _no_answer(name) from None
        after = time.time()
        answers.append((after - before, its_time - (before + after) / 2))
    round_trip, skew = min(answers)
    return math.copysign(max(0.0, abs(skew) - round_trip / 2), skew)


def _no_answer(names: str) -> UserError:
    return UserError(
        f"{names}: no answer in {_TIMEOUT} s; is the node up, and has it room for a process?"
    )
