"""A training's cost before it starts: time, GPU-hours, memory, loading, traffic, checkpoints."""

import math
import os
from dataclasses import dataclass, replace

import torch

from pipeline.config.cluster import Cluster
from pipeline.config.recipe import Recipe
from pipeline.planning.hardware import Device, Hardware, Precision, read_hardware
from pipeline.planning.measured_speed import MeasuredSpeed, newest_measurement
from pipeline.planning.pass_size import micro_batches_at_once
from pipeline.planning.step_cost import WorkerHardware, bytes_between_nodes, step_parts
from pipeline.planning.workload import Workload, data_facts, measure_workload
from pipeline.runtime.errors import UserError
from pipeline.runtime.precision import computes_bfloat16

WORLD_SIZES = (1, 8, 64, 512, 4096)
MICRO_BATCHES = (8, 16, 32, 64, 128, 256)
# Doubling the workers pays while it brings at least this many times the images/s.
MIN_GAIN = 1.5


@dataclass(frozen=True)
class PlanRow:
    """The training on `num_workers`; rates are of all workers, `node_…` of one node, in 1/s."""

    num_workers: int
    batch_size: int
    images_per_second: float
    epoch_seconds: float
    total_seconds: float
    bottleneck: str
    node_images_per_second: float
    node_bytes_loaded: float
    node_bytes_sent: float

    @property
    def worker_hours(self) -> float:
        return self.num_workers * self.total_seconds / 3600


@dataclass(frozen=True)
class Plan:
    """All that `ilsvrc plan` shows.

    `memory` is a worker's bytes by images of a micro-batch; `cluster_workers` is the cluster's own
    number of workers. Scaling pays up to `efficient_workers`; beyond `max_workers` the batch is
    larger than any that is known to train. `precision_asked_for` is the recipe's; the workload is
    in the one that the device computes.
    """

    workload: Workload
    machine: WorkerHardware
    precision_asked_for: Precision
    calibration: MeasuredSpeed | None
    rows: tuple[PlanRow, ...]
    memory: dict[int, float]
    cluster_workers: int
    checkpoints_written: int
    efficient_workers: int
    max_workers: int


def make_plan(recipe: Recipe, cluster: Cluster, device_name: str | None) -> Plan:
    """Plan `recipe` on workers as `cluster` has them, of another device if one is named.

    Where the device computes no bfloat16, it is planned in float32. Raises `UserError` for a device
    that isn't known, and for a data set that is neither packed nor known.
    """
    hardware = read_hardware()
    name = device_name or _device_name(cluster, hardware)
    device = hardware.device(name)
    asked_for = recipe.precision
    precision = _precision(asked_for, cluster, device, is_gpu=name != "cpu")
    recipe = recipe.model_copy(update={"precision": precision})
    workload = measure_workload(recipe, data_facts(recipe, cluster, hardware))
    workers = cluster.workers
    is_gpu = name != "cpu"
    machine = WorkerHardware(
        hardware,
        device,
        is_gpu=is_gpu,
        cores=1 if is_gpu else workers.cpus,
        threads=cluster.loading.threads,
        workers_per_node=device.workers_per_node,
        micro_batches_at_once=micro_batches_at_once(
            recipe, cluster.compute, device.memory.value * 1e9 if is_gpu else None
        ),
    )
    measured = newest_measurement(cluster.runs_dir, recipe, machine)
    if measured:
        machine = replace(
            machine,
            correction=_correction(measured, machine),
            loaded_per_thread=measured.loader_images_per_second / measured.threads,
        )
    max_workers = int(hardware.largest_batch.value) // recipe.batch.micro_batch_size
    most = _most_workers(workload, cluster, max_workers, is_gpu=is_gpu)
    sizes = sorted({*(size for size in WORLD_SIZES if size < most), most, workers.most})
    own = _row(workload, machine, workers.most)
    return Plan(
        workload=workload,
        machine=machine,
        precision_asked_for=asked_for,
        calibration=measured,
        rows=tuple(_row(workload, machine, size) for size in sizes),
        memory={size: _memory(workload, hardware, size, is_gpu) for size in MICRO_BATCHES},
        cluster_workers=own.num_workers,
        checkpoints_written=_checkpoints(workload, cluster, own.epoch_seconds),
        efficient_workers=_efficient_workers(workload, machine, sizes[-1]),
        max_workers=max_workers,
    )


def _most_workers(workload: Workload, cluster: Cluster, max_workers: int, *, is_gpu: bool) -> int:
    """Return the largest number of workers that is worth a row.

    No batch beyond the largest that is known to train, or than the data set; no worker without a
    core where all are on this machine.
    """
    batch = workload.recipe.batch
    most = max(batch.num_micro_batches, max_workers)
    most = min(most, max(1, workload.data.train // batch.micro_batch_size), WORLD_SIZES[-1])
    if not is_gpu and cluster.workers.are_on_this_machine:
        most = min(most, max(1, (os.cpu_count() or 1) // cluster.workers.cpus))
    return most


def _row(workload: Workload, machine: WorkerHardware, num_workers: int) -> PlanRow:
    batch, data = workload.recipe.batch, workload.data
    each = math.ceil(batch.num_micro_batches / num_workers)
    size = max(batch.num_micro_batches, num_workers) * batch.micro_batch_size
    step = step_parts(workload, machine, num_workers, each)
    images_per_second = size / step.seconds
    # An evaluation is a forward pass, a third of the work of training.
    epoch = (data.train + data.val / 3) / images_per_second
    nodes = math.ceil(num_workers / machine.workers_per_node)
    return PlanRow(
        num_workers=num_workers,
        batch_size=size,
        images_per_second=images_per_second,
        epoch_seconds=epoch,
        total_seconds=epoch * workload.recipe.epochs,
        bottleneck=step.bottleneck,
        node_images_per_second=images_per_second / nodes,
        node_bytes_loaded=images_per_second / nodes * data.bytes,
        node_bytes_sent=bytes_between_nodes(workload, machine, num_workers) / step.seconds,
    )


def _device_name(cluster: Cluster, hardware: Hardware) -> str:
    """Return the name of the cluster's device: the GPU it names, this machine's, or a CPU core."""
    if cluster.workers.device == "cpu":
        return "cpu"
    if cluster.workers.gpu:
        return cluster.workers.gpu
    reported = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    for name, device in hardware.devices.items():
        if device.reported_as and device.reported_as in reported:
            return name
    gpus = ", ".join(name for name in hardware.devices if name != "cpu")
    raise UserError(
        f"which GPU the cluster has can't be seen from here; add --gpu {gpus}; "
        "cluster.workers.gpu can say so for good"
    )


def _precision(
    asked_for: Precision, cluster: Cluster, device: Device, *, is_gpu: bool
) -> Precision:
    is_here = not is_gpu and cluster.workers.are_on_this_machine
    if is_here and not computes_bfloat16(torch.device("cpu")):
        return "float32"
    return device.precision(asked_for)


def _correction(measured: MeasuredSpeed, machine: WorkerHardware) -> float:
    """Return measured ÷ modelled seconds of the step that was measured."""
    workload = measure_workload(measured.recipe, machine.hardware.data["ilsvrc2012"])
    batch = measured.recipe.batch  # one pass
    benchmarked = replace(
        machine,
        cores=measured.cpus if not machine.is_gpu else 1,
        micro_batches_at_once=batch.num_micro_batches,
    )
    step = step_parts(workload, benchmarked, 1, batch.num_micro_batches)
    modelled = step.seconds - step.loader
    return batch.global_batch_size / measured.step_images_per_second / modelled


def _memory(workload: Workload, hardware: Hardware, micro_batch: int, is_gpu: bool) -> float:
    other = hardware.other_memory.value * 1e9 * is_gpu
    return workload.state_bytes + micro_batch * workload.activation_bytes + other


def _checkpoints(workload: Workload, cluster: Cluster, epoch_seconds: float) -> int:
    """Return the number of checkpoints: one per epoch, and within it by steps or time, the more."""
    saving = cluster.saving
    steps = math.ceil(workload.data.train / workload.recipe.batch.global_batch_size)
    by_steps = (steps - 1) // saving.checkpoint_every_steps if saving.checkpoint_every_steps else 0
    by_clock = int(epoch_seconds / (60 * saving.checkpoint_minutes))
    return workload.recipe.epochs * (1 + max(by_steps, by_clock))


def _efficient_workers(workload: Workload, machine: WorkerHardware, most: int) -> int:
    """Return the number whose double brings less than `MIN_GAIN` times the images/s, or `most`."""
    size = 1
    while size < most:
        now, twice = (_row(workload, machine, n).images_per_second for n in (size, 2 * size))
        if twice < MIN_GAIN * now:
            break
        size *= 2
    return min(size, most)
