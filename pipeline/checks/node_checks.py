"""What can be known only on the nodes themselves, asked by Ray tasks: the long part of `check`.

Every node leaves a mark in the runs' folder and says which marks it sees, reads the data set, asks
the tracking server, and tells its time, GPUs, threads and memory; then the workers of a training
add up a buffer of its gradients' size, over the links that it will use.
"""

import shutil
from collections.abc import Callable, Iterator
from uuid import uuid4

from pipeline.checks.links import check_links
from pipeline.checks.nodes import Node, ask_nodes
from pipeline.checks.preflight import Check, bytes_needed, too_large
from pipeline.config.cluster import Cluster
from pipeline.config.recipe import Recipe
from pipeline.planning.workload import training_bytes
from pipeline.runtime.errors import UserError
from pipeline.runtime.ray_session import ray_session

_LARGEST_SKEW = 2.0  # seconds


def check_nodes(recipe: Recipe, cluster: Cluster) -> Iterator[Check]:
    """Look at every node of the cluster, and at the links between its workers; none raises."""
    if cluster.workers.are_in_process:
        yield Check("nodes", True, "this process alone")
        return
    folder = cluster.runs_dir / f".check-{uuid4().hex[:8]}"
    try:
        with ray_session(cluster.workers.ray_address):
            nodes = ask_nodes(recipe, cluster, folder)
            yield _nodes(nodes)
            for name, look in LOOKS.items():
                yield _judged(name, look, nodes, recipe, cluster)
            yield check_links(recipe, cluster, folder)
    except UserError as error:
        yield Check("nodes", False, str(error))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}" if number else "none"
