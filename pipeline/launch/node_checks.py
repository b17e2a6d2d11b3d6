"""What can be known only on the nodes themselves, asked by Ray tasks: the long part of `check`.

Every node leaves a mark in the runs' folder and says which marks it sees, reads the data set, asks
the tracking server, and tells its time, GPUs, threads and memory; then the workers of a training
add up a buffer of its gradients' size, over the links that it will use.
"""

import math
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from pipeline.cluster import Cluster
from pipeline.distributed import Worker
from pipeline.errors import UserError, WorkerFailedError
from pipeline.launch.events import Report
from pipeline.launch.job import Job, watching
from pipeline.launch.node_report import NodeReport, Question, clock, examine, marks_in
from pipeline.launch.on_ray import credentials, run_on_workers
from pipeline.launch.preflight import Check, bytes_needed, too_large
from pipeline.launch.run_folder import RunFolder
from pipeline.planning.workload import model_on_paper, training_bytes
from pipeline.ray_session import ray_session
from pipeline.recipe import Recipe

_PATIENCE = 40  # seconds, for a node to answer
_LARGEST_SKEW = 2.0  # seconds
_LARGEST_BUFFER = 2**28  # bytes
_ROUNDS = 5


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


def check_nodes(recipe: Recipe, cluster: Cluster) -> Iterator[Check]:
    """Look at every node of the cluster, and at the links between its workers; none raises."""
    if cluster.workers.are_here:
        yield Check("nodes", True, "this process alone")
        return
    folder = cluster.runs_dir / f".check-{uuid4().hex[:8]}"
    try:
        with ray_session(cluster.workers.ray_address):
            nodes = _ask(recipe, cluster, folder)
            yield _nodes(nodes)
            for name, look in LOOKS.items():
                yield _judged(name, look, nodes, recipe, cluster)
            yield _all_reduce(recipe, cluster, folder)
    except UserError as error:
        yield Check("nodes", False, str(error))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ask(recipe: Recipe, cluster: Cluster, folder: Path) -> list[Node]:
    import ray

    there = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    addresses = [node["NodeManagerAddress"] for node in there.values()]
    names = {
        node_id: address if addresses.count(address) == 1 else f"{address} ({node_id[:6]})"
        for node_id, address in zip(there, addresses, strict=True)
    }
    reports: dict[str, NodeReport] = _on_every(
        names, examine, lambda node_id: Question(
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
            skew=_skew(node_id),
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
        raise UserError(
            f"{', '.join(names[asked[task]] for task in silent)}: no answer in {_PATIENCE} s; is "
            "the node up, and has it room for a process?"
        )
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


def _skew(node_id: str) -> float:
    """Return how far a node's clock is from this one's at least; the quickest of three answers."""
    import ray

    answers = []
    for _ in range(3):
        before = time.time()
        there = ray.get(_on(node_id, clock), timeout=_PATIENCE)
        after = time.time()
        answers.append((after - before, there - (before + after) / 2))
    took, skew = min(answers)
    return math.copysign(max(0.0, abs(skew) - took / 2), skew)


def _nodes(nodes: list[Node]) -> Check:
    software = {node.report.software for node in nodes}
    if len(software) > 1:
        each = "; ".join(f"{node.name}: {node.report.software}" for node in nodes)
        return Check("nodes", False, f"{each}; install the same everywhere")
    names = ", ".join(node.name for node in nodes[:4]) + (", …" if len(nodes) > 4 else "")
    return Check("nodes", True, f"{len(nodes)}: {names}; {software.pop()}")


# Each returns what is wrong, a line a node, and what to say when nothing is.
Look = Callable[[list[Node], Recipe, Cluster], tuple[list[str], str]]


def _judged(name: str, look: Look, nodes: list[Node], recipe: Recipe, cluster: Cluster) -> Check:
    problems, summary = look(nodes, recipe, cluster)
    if not problems:
        return Check(name, True, summary)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return Check(name, False, problems[0] + more)


def _gpus(nodes: list[Node], recipe: Recipe, cluster: Cluster) -> tuple[list[str], str]:
    if cluster.workers.device == "cpu":
        return [], "none asked for"
    problems = []
    for node in nodes:
        report = node.report
        if report.num_gpus < node.gpus:
            problems.append(
                f"{node.name}: Ray counts {node.gpus} GPUs, the driver shows {report.num_gpus}; "
                "look at nvidia-smi there, then start Ray again"
            )
        # Within one major version, a newer CUDA runs on an older driver.
        elif node.gpus and report.driver_cuda // 1000 < report.needed_cuda // 1000:
            problems.append(
                f"{node.name}: the driver supports CUDA {_version(report.driver_cuda)}, torch and "
                f"DALI need {_version(report.needed_cuda)}; update the driver"
            )
    return problems, f"{sum(node.gpus for node in nodes)} in all, drivers fit torch and DALI"


def _clocks(nodes: list[Node], recipe: Recipe, cluster: Cluster) -> tuple[list[str], str]:
    problems = [
        f"{node.name}: its clock is {abs(node.skew):,.0f} s "
        f"{'ahead' if node.skew > 0 else 'behind'}; start chrony or systemd-timesyncd there"
        for node in nodes
        if abs(node.skew) > _LARGEST_SKEW
    ]
    return problems, f"within {max(abs(node.skew) for node in nodes):.1f} s"


def _storage(nodes: list[Node], recipe: Recipe, cluster: Cluster) -> tuple[list[str], str]:
    needed = bytes_needed(recipe, cluster)
    everything = {mark for node in nodes for mark in node.sees}
    problems = []
    for node in nodes:
        report = node.report
        if report.storage_problem:
            problems.append(f"{node.name}: {report.storage_problem}; mend its permissions there")
        elif len(node.sees) < len(everything):
            problems.append(
                f"{node.name}: {cluster.runs_dir} isn't shared, it sees {len(node.sees)} of "
                f"{len(everything)} nodes' files; set cluster.runs_dir to storage that all share"
            )
        elif report.free_storage < needed:
            problems.append(
                f"{node.name}: {report.free_storage / 1e6:,.0f} MB free, the checkpoints need "
                f"{needed / 1e6:,.0f} MB"
            )
    return problems, f"{cluster.runs_dir}, written and seen by every node"


def _data(nodes: list[Node], recipe: Recipe, cluster: Cluster) -> tuple[list[str], str]:
    problems = [
        f"{node.name}: {node.report.data_problem}" for node in nodes if node.report.data_problem
    ]
    digests = [node.report.data_digest for node in nodes if not node.report.data_problem]
    usual = max(digests, key=digests.count, default="")
    problems += [
        f"{node.name}: '{recipe.data.name}' is another data set than on the other nodes; copy it "
        "there again, or set cluster.data_dir to storage that all share"
        for node in nodes
        if not node.report.data_problem and node.report.data_digest != usual
    ]
    return problems, f"the same everywhere ({usual[:8]})"


def _tracking(nodes: list[Node], recipe: Recipe, cluster: Cluster) -> tuple[list[str], str]:
    problems = [
        f"{node.name}: {node.report.tracking_problem}"
        for node in nodes
        if node.report.tracking_problem
    ]
    if problems and not cluster.tracking.required:
        return [], f"{problems[0]}; tracking.required is false"
    return problems, "reached from every node"


def _memory(nodes: list[Node], recipe: Recipe, cluster: Cluster) -> tuple[list[str], str]:
    needed, on_cpu = training_bytes(recipe), cluster.workers.device == "cpu"
    problems = []
    for node in nodes:
        workers = _workers_on(node, cluster) if on_cpu else min(1, node.gpus)
        there = node.report.free_memory if on_cpu else node.report.gpu_memory
        if workers * needed > there:
            what = "are free" if on_cpu else "are all that a GPU has"
            problem = too_large(recipe, workers * needed, f"{there / 1e9:.1f} GB {what}")
            problems.append(f"{node.name}: {problem}")
    return problems, f"at least {needed / 1e9:.1f} GB a worker, and there"


def _workers_on(node: Node, cluster: Cluster) -> int:
    """Return how many workers of the training the node has room for."""
    workers = cluster.workers
    room = node.cpus // workers.cpus if workers.device == "cpu" else node.gpus
    return min(workers.most, int(room))


def _loader(nodes: list[Node], recipe: Recipe, cluster: Cluster) -> tuple[list[str], str]:
    loading = cluster.loading
    pixels = recipe.input.size**recipe.input.dimensions * recipe.input.num_channels
    # Ahead, being made, being used: as float32, beside the decoded images, about as large.
    memory = 2 * 4 * pixels * recipe.batch.micro_batch_size * (loading.prefetch + 2)
    problems, most = [], 0
    for node in nodes:
        here = _workers_on(node, cluster)
        most = max(most, here)
        threads = here * loading.threads
        if threads > node.report.cpus:
            problems.append(
                f"{node.name}: {here} workers load with {threads} threads, it has "
                f"{node.report.cpus} cores; lower cluster.loading.threads or cluster.workers.count"
            )
        elif here * memory > node.report.free_memory:
            problems.append(
                f"{node.name}: loading takes {here * memory / 1e9:.1f} GB, "
                f"{node.report.free_memory / 1e9:.1f} GB are free; lower cluster.loading.prefetch "
                "or batch.micro_batch_size"
            )
    return (
        problems,
        f"{most} workers a node, {loading.threads} threads, {memory / 1e6:,.0f} MB each",
    )


LOOKS: dict[str, Look] = {
    "GPUs": _gpus,
    "memory": _memory,
    "clocks": _clocks,
    "shared storage": _storage,
    "data everywhere": _data,
    "tracking server": _tracking,
    "loader": _loader,
}


def _all_reduce(recipe: Recipe, cluster: Cluster, folder: Path) -> Check:
    """Have the workers of a training add up gradients, and say how fast that went."""
    workers = cluster.workers
    if workers.fewest == 1:
        return Check("all-reduce", True, "one worker has nothing to exchange")
    brief = workers.model_copy(
        update={"count": workers.fewest, "min": None, "max": None, "max_failures": 0}
        | {"hang_seconds": 20}
    )
    job = Job(recipe, cluster.model_copy(update={"workers": brief}), RunFolder(folder), "")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        size, seconds = run_on_workers(_add_up, job, lambda event: None)
    except (UserError, WorkerFailedError, OSError) as error:
        return Check("all-reduce", False, str(error))
    # As NCCL's tests count: what each link carried, whatever the number of workers.
    bandwidth = 2 * (brief.fewest - 1) / brief.fewest * size / seconds
    return Check(
        "all-reduce",
        True,
        f"{brief.fewest} workers, {size / 1e6:.3g} MB in {seconds * 1e3:,.1f} ms: "
        f"{bandwidth / 1e9:.2g} GB/s each",
    )


def _add_up(job: Job, worker: Worker, report: Report) -> tuple[int, float]:
    """Return the bytes and the median seconds of one all-reduce. A collective call."""
    parameters = sum(value.numel() for value in model_on_paper(job.recipe).parameters())
    buffer = torch.zeros(min(parameters, _LARGEST_BUFFER // 4), device=worker.device)
    seconds = []
    with watching(job, worker, report) as watchdog:
        for _ in watchdog.counted(range(_ROUNDS + 1)):
            _synchronize(worker)
            started = time.perf_counter()
            torch.distributed.all_reduce(buffer)
            _synchronize(worker)
            seconds.append(time.perf_counter() - started)
    return 4 * buffer.numel(), statistics.median(seconds[1:])  # the first one connects


def _synchronize(worker: Worker) -> None:
    if worker.device.type == "cuda":
        torch.cuda.synchronize(worker.device)


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}" if number else "none"
