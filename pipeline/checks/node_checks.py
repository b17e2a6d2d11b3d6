"""Checks that only the nodes themselves can answer, by Ray tasks: the long part of `ilsvrc check`.

Every node writes a marker file to the runs' folder and lists the markers that it sees, reads the
data set, asks the tracking server, and reports its clock, GPUs, threads and memory; then the
workers of a training sum a buffer of its gradients' size, over the links that it will use.
"""

import shutil
from collections.abc import Iterator
from uuid import uuid4

from pipeline.checks.links import check_links
from pipeline.checks.nodes import Node, inspect_nodes
from pipeline.checks.preflight import Check, bytes_needed, too_large
from pipeline.config.cluster import Cluster
from pipeline.config.recipe import Recipe
from pipeline.data.loading.loading_memory import LoadingMemory, loading_memory
from pipeline.planning.pass_size import fewest_at_once, most_images_at_once
from pipeline.planning.workload import training_bytes
from pipeline.runtime.errors import UserError
from pipeline.runtime.ray_session import ray_session

_MAX_CLOCK_SKEW = 2.0  # seconds


def check_nodes(recipe: Recipe, cluster: Cluster) -> Iterator[Check]:
    """Check every node of the cluster, and the links between its workers; never raises."""
    if cluster.workers.are_in_process:
        yield Check("nodes", True, "this process alone")
        return
    folder = cluster.runs_dir / f".check-{uuid4().hex[:8]}"
    try:
        with ray_session(cluster.workers.ray_address):
            yield from check_reports(inspect_nodes(recipe, cluster, folder), recipe, cluster)
            yield check_links(recipe, cluster, folder)
    except UserError as error:
        yield Check("nodes", False, str(error))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_reports(nodes: list[Node], recipe: Recipe, cluster: Cluster) -> Iterator[Check]:
    """Check what the nodes reported; a check that fails names the first node at fault."""
    yield _software(nodes)
    yield _gpus(nodes, cluster)
    yield _precision(nodes, recipe, cluster)
    yield _memory(nodes, recipe, cluster)
    yield _clocks(nodes)
    yield _storage(nodes, recipe, cluster)
    yield _data(nodes, recipe)
    yield _tracking(nodes, cluster)
    yield _loader(nodes, recipe, cluster)


def _check(name: str, problems: list[str], summary: str) -> Check:
    """Return a check that failed with the first of `problems`, or passed with `summary`."""
    if not problems:
        return Check(name, True, summary)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return Check(name, False, problems[0] + more)


def _software(nodes: list[Node]) -> Check:
    software = {node.report.software for node in nodes}
    if len(software) > 1:
        each = "; ".join(f"{node.name}: {node.report.software}" for node in nodes)
        return Check("nodes", False, f"{each}; install the same everywhere")
    names = ", ".join(node.name for node in nodes[:4]) + (", …" if len(nodes) > 4 else "")
    return Check("nodes", True, f"{len(nodes)}: {names}; {software.pop()}")


def _gpus(nodes: list[Node], cluster: Cluster) -> Check:
    if cluster.workers.device == "cpu":
        return Check("GPUs", True, "none requested")
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
    num_gpus = sum(node.gpus for node in nodes)
    return _check("GPUs", problems, f"{num_gpus} in all, drivers fit torch and DALI")


def _precision(nodes: list[Node], recipe: Recipe, cluster: Cluster) -> Check:
    used = [node for node in nodes if cluster.workers.device == "cpu" or node.gpus]
    lacking = [node.name for node in used if not node.report.computes_bfloat16]
    if recipe.precision == "bfloat16" and lacking:
        return Check("precision", True, f"float32: {', '.join(lacking)} compute no bfloat16")
    return Check("precision", True, f"{recipe.precision} on every node")


def _memory(nodes: list[Node], recipe: Recipe, cluster: Cluster) -> Check:
    on_cpu = cluster.workers.device == "cpu"
    # What a CPU's loader takes is of the loader's own check.
    at_once = fewest_at_once(recipe, cluster.compute)
    images = at_once * recipe.batch.micro_batch_size
    loading = 0.0 if on_cpu else _loading(recipe, cluster, images).gpu
    needed = training_bytes(recipe, at_once) + loading
    problems = []
    for node in nodes:
        workers = _workers_on(node, cluster) if on_cpu else min(1, node.gpus)
        available = node.report.free_memory if on_cpu else node.report.gpu_memory
        if workers * needed > available:
            what = "are free" if on_cpu else "are all that a GPU has"
            problem = too_large(
                recipe, cluster, workers * needed, f"{available / 1e9:.1f} GB {what}"
            )
            problems.append(f"{node.name}: {problem}")
    summary = f"at least {needed / 1e9:.1f} GB a worker, and there"
    if loading:
        summary += f"; {loading / 1e9:.1f} GB of it to load"
    return _check("memory", problems, summary)


def _clocks(nodes: list[Node]) -> Check:
    problems = [
        f"{node.name}: its clock is {abs(node.clock_skew):,.0f} s "
        f"{'ahead' if node.clock_skew > 0 else 'behind'}; start chrony or systemd-timesyncd there"
        for node in nodes
        if abs(node.clock_skew) > _MAX_CLOCK_SKEW
    ]
    return _check("clocks", problems, f"within {max(abs(node.clock_skew) for node in nodes):.1f} s")


def _storage(nodes: list[Node], recipe: Recipe, cluster: Cluster) -> Check:
    needed = bytes_needed(recipe, cluster)
    all_markers = {marker for node in nodes for marker in node.markers}
    problems = []
    for node in nodes:
        report = node.report
        if report.storage_problem:
            problems.append(f"{node.name}: {report.storage_problem}; mend its permissions there")
        elif len(node.markers) < len(all_markers):
            problems.append(
                f"{node.name}: {cluster.runs_dir} isn't shared, it sees {len(node.markers)} of "
                f"{len(all_markers)} nodes' files; set cluster.runs_dir to storage that all share"
            )
        elif report.free_storage < needed:
            problems.append(
                f"{node.name}: {report.free_storage / 1e6:,.0f} MB free, the checkpoints need "
                f"{needed / 1e6:,.0f} MB"
            )
    return _check("shared storage", problems, f"{cluster.runs_dir}, written and seen by every node")


def _data(nodes: list[Node], recipe: Recipe) -> Check:
    readable = [node for node in nodes if not node.report.data_problem]
    problems = [
        f"{node.name}: {node.report.data_problem}" for node in nodes if node.report.data_problem
    ]
    digests = [node.report.data_digest for node in readable]
    most_frequent = max(digests, key=digests.count, default="")
    problems += [
        f"{node.name}: '{recipe.data.name}' is another data set than on the other nodes; copy it "
        "there again, or set cluster.data_dir to storage that all share"
        for node in readable
        if node.report.data_digest != most_frequent
    ]
    return _check("data everywhere", problems, f"the same everywhere ({most_frequent[:8]})")


def _tracking(nodes: list[Node], cluster: Cluster) -> Check:
    problems = [
        f"{node.name}: {node.report.tracking_problem}"
        for node in nodes
        if node.report.tracking_problem
    ]
    if problems and not cluster.tracking.required:
        return Check("tracking server", True, f"{problems[0]}; tracking.required is false")
    return _check("tracking server", problems, "reached from every node")


def _loader(nodes: list[Node], recipe: Recipe, cluster: Cluster) -> Check:
    loading = cluster.loading
    on_gpu = cluster.workers.device == "gpu"
    images = most_images_at_once(recipe, cluster.compute, on_gpu=on_gpu)
    memory = _loading(recipe, cluster, images).host
    problems = []
    for node in nodes:
        workers = _workers_on(node, cluster)
        threads = workers * loading.threads
        if threads > node.report.cpus:
            problems.append(
                f"{node.name}: {workers} workers load with {threads} threads, it has "
                f"{node.report.cpus} cores; lower cluster.loading.threads or cluster.workers.count"
            )
        elif workers * memory > node.report.free_memory:
            problems.append(
                f"{node.name}: loading takes {workers * memory / 1e9:.1f} GB, "
                f"{node.report.free_memory / 1e9:.1f} GB are free; lower cluster.loading.prefetch, "
                "cluster.loading.window or batch.micro_batch_size"
            )
    most = max(_workers_on(node, cluster) for node in nodes)
    summary = f"{most} workers a node, {loading.threads} threads, {memory / 1e6:,.0f} MB each"
    return _check("loader", problems, summary)


def _loading(recipe: Recipe, cluster: Cluster, images: int) -> LoadingMemory:
    """Return the memory of loading passes of so many images."""
    on_gpu = cluster.workers.device == "gpu"
    return loading_memory(recipe.input, cluster.loading, images, on_gpu=on_gpu)


def _workers_on(node: Node, cluster: Cluster) -> int:
    """Return how many workers of the training the node has room for."""
    workers = cluster.workers
    room = node.cpus // workers.cpus if workers.device == "cpu" else node.gpus
    return min(workers.most, int(room))


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}" if number else "none"
