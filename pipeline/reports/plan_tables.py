"""Tables of a plan for a terminal of 80 columns, and its assumptions with their sources."""

import textwrap
from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.planning.hardware import Fact
from pipeline.planning.plan import MIN_GAIN, Plan
from pipeline.reports.tables import titled_table

_WIDTH = 79


def plan_tables(plan: Plan) -> Iterator[RenderableType]:
    """Yield tables of time and cost, a node's needs and memory, then the assumptions."""
    yield _costs(plan)
    yield _needs(plan)
    yield _memory(plan)
    cite = _Citations()
    yield Text(textwrap.fill(" ".join(_sentences(plan, cite)), _WIDTH))
    yield Text("\nAssumptions", style="bold")
    for line in _assumptions(plan, cite):
        yield Text(textwrap.fill(line, _WIDTH, initial_indent="- ", subsequent_indent="  "))
    for number, name in enumerate(cite.names, 1):
        text = f"[{number}] {plan.machine.hardware.sources[name]}"
        yield Text(textwrap.fill(text, _WIDTH, subsequent_indent="    "), style="dim")


class _Citations:
    """Numbers sources in the order in which they are first cited."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, fact: Fact) -> str:
        if fact.source not in self.names:
            self.names.append(fact.source)
        return f"({fact.certainty}) [{self.names.index(fact.source) + 1}]"


def _costs(plan: Plan) -> Table:
    recipe = plan.workload.recipe
    title = (
        f"{recipe.network.name} on {plan.machine.device.title}, {recipe.precision}, "
        f"{recipe.batch.micro_batch_size} images a micro-batch"
    )
    table = titled_table(title, padding=0)
    unit = "GPU" if plan.machine.is_gpu else "Worker"
    for name in (f"{unit}s", "Batch", "Images/s", "Epoch", f"{recipe.epochs} epochs", f"{unit}-h"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Gain", justify="right", no_wrap=True)
    table.add_column("Bottleneck")
    alone = plan.rows[0].images_per_second
    for row in plan.rows:
        table.add_row(
            f"{row.num_workers:,}",
            f"{row.batch_size:,}" + "*" * (row.batch_size > recipe.batch.global_batch_size),
            _figure(row.images_per_second),
            _duration(row.epoch_seconds),
            _duration(row.total_seconds),
            _figure(row.worker_hours),
            f"{_figure(row.images_per_second / alone)}×",
            row.bottleneck,
        )
    return table


def _needs(plan: Plan) -> Table:
    table = titled_table(f"Needs of a node of {plan.machine.workers_per_node}", padding=0)
    unit = "GPU" if plan.machine.is_gpu else "Worker"
    for name in (f"{unit}s", "JPEG/s", "MB/s to read", "Gradients, GB/s to other nodes"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in plan.rows:
        table.add_row(
            f"{row.num_workers:,}",
            _figure(row.node_images_per_second),
            _figure(row.node_bytes_loaded / 1e6),
            _figure(row.node_bytes_sent / 1e9) if row.node_bytes_sent else "–",
        )
    machine = plan.machine
    workers = min(machine.workers_per_node, plan.rows[-1].num_workers)
    network = machine.device.network.value * machine.hardware.network_share.value
    table.add_row(
        "it has", _figure(workers * machine.images_loaded_per_second), "", _figure(network),
        style="dim",
    )  # fmt: skip
    return table


def _memory(plan: Plan) -> Table:
    limit = plan.machine.device.memory.value * plan.machine.cores
    unit = "GPU" if plan.machine.is_gpu else "worker"
    table = titled_table(f"Memory of a {unit} by micro-batch, of {limit:g} GB", padding=0)
    for size in plan.memory:
        table.add_column(f"{size}", justify="right", no_wrap=True)
    cells = [
        Text(_bytes(need), style="" if need / 1e9 <= limit else "red")
        for need in plan.memory.values()
    ]
    table.add_row(*cells)
    return table


def _sentences(plan: Plan, cite: _Citations) -> Iterator[str]:
    workload, recipe = plan.workload, plan.workload.recipe
    if recipe.precision != plan.precision_asked_for:
        yield f"In {recipe.precision}, since the device computes no {plan.precision_asked_for}."
    unit = "GPUs" if plan.machine.is_gpu else "workers"
    written = plan.checkpoints_written
    yield (
        f"Checkpoints: {_bytes(workload.checkpoint_bytes)} each, {written:,} written with "
        f"{plan.cluster_workers:,} {unit}, "
        f"{_bytes(written * workload.checkpoint_bytes)} in all."
    )
    if plan.efficient_workers < plan.rows[-1].num_workers:
        yield (
            f"Scaling pays up to {plan.efficient_workers:,} {unit}: twice as many then bring less "
            f"than {MIN_GAIN:g} times the images/s."
        )
    else:
        yield f"By speed alone, scaling still pays at {plan.efficient_workers:,} {unit}."
    batch = recipe.batch.global_batch_size
    largest = plan.machine.hardware.largest_batch
    yield (
        f"The recipe's batch of {batch} fills {recipe.batch.num_micro_batches}; with more (*) the "
        f"batch grows, the learning rate with it, and the result is another. Beyond "
        f"{max(plan.max_workers, recipe.batch.num_micro_batches):,} {unit} it is over "
        f"{largest.value:,.0f}, up to which that has been shown to work {cite(largest)}."
    )
    limit = plan.machine.device.memory.value * plan.machine.cores * 1e9
    micro = recipe.batch.micro_batch_size
    if micro in plan.memory and plan.memory[micro] > limit:
        yield "The recipe's micro-batch doesn't fit the memory; lower batch.micro_batch_size."


def _assumptions(plan: Plan, cite: _Citations) -> Iterator[str]:
    machine, workload = plan.machine, plan.workload
    facts, device, precision = machine.hardware, machine.device, workload.recipe.precision
    measured = plan.calibration
    if measured:
        yield (
            f"measured: {measured.recipe.network.name} stepped at "
            f"{_figure(measured.step_images_per_second)} images/s and loaded at "
            f"{_figure(measured.loader_images_per_second)} with {measured.threads} threads on "
            f"{measured.machine} ({measured.date}, `ilsvrc benchmark`); the model took "
            f"{1 / machine.correction:.2f} of that time for a step, and is corrected by it"
        )
    else:
        yield "nothing was measured here; `ilsvrc benchmark` on the device would correct this"
    yield (
        f"one image: {_count(workload.multiply_adds)} multiply-adds forward, three times that "
        f"with the backward pass, at {device.efficiency[precision].value:.0%} "
        f"{cite(device.efficiency[precision])} of {device.peak[precision].value:g} TFLOP/s "
        f"{cite(device.peak[precision])}"
    )
    yield (
        f"and {_bytes(workload.activation_bytes)} stored for the backward pass, which cross "
        f"the memory's bus {facts.activation_passes.value:g} times "
        f"{cite(facts.activation_passes)} at {device.bandwidth.value:g} GB/s "
        f"{cite(device.bandwidth)}"
    )
    if machine.is_gpu:
        yield (
            f"{workload.layers} layers, {facts.launch.value:g} ms to start the kernels of each "
            f"{cite(facts.launch)}"
        )
    yield (
        f"{_bytes(workload.gradient_bytes)} of gradients by rings: {device.peers.value:g} GB/s in "
        f"a node {cite(device.peers)}, {facts.network_share.value:.0%} "
        f"{cite(facts.network_share)} of {device.network.value:g} GB/s between nodes "
        f"{cite(device.network)}; hidden behind the backward pass but for the last bucket"
    )
    if not measured:
        loading = facts.decoded_with_gpu if machine.is_gpu else facts.decoded_by_cpu
        yield (
            f"a worker loads with {machine.threads} thread{'s' * (machine.threads > 1)} of "
            f"{loading.value:g} JPEG/s {cite(loading)}; {workload.data.bytes / 1e3:.0f} kB a JPEG"
        )
    yield (
        "not counted: waiting for the slowest worker, a cold cache, starting; published runs are "
        "slower than this model by up to 14 % on 8 GPUs, by 17 % on 256"
    )
    if device.remark:
        yield device.remark


def _duration(seconds: float) -> str:
    for size, unit in ((86400 * 2, "d"), (3600 * 2, "h"), (60 * 2, "min")):
        if seconds >= size:
            return f"{seconds / size * 2:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _figure(value: float) -> str:
    """Format with at most three digits, which is more than the model's precision."""
    if value >= 100:
        digits = len(str(int(value))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def _count(number: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e3:.3g} k"


def _bytes(count: float) -> str:
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"
