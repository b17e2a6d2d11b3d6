"""A model of one optimizer step on n workers: a sum of times, the largest is the bottleneck.

A worker computes each of its micro-batches, forward and backward, in the time that its arithmetic
takes at the device's efficiency, and then its memory traffic at the memory's bandwidth; and a pass
of several no faster than a CPU can start its kernels. Gradients travel by rings, first in each
node, then between nodes, during the backward half of the last pass, two thirds of its time; the
last bucket can't overlap.
Loading overlaps with all this and counts only where it is slower.
"""

import math
from dataclasses import asdict, dataclass

from pipeline.planning.hardware import Device, Hardware
from pipeline.planning.workload import Workload

# A weight's float32 crosses the bus when it is cast, read and written by the optimizer, and so do
# its gradient and momentum, and DDP's copy.
_WEIGHT_PASSES = 8
# Forward, and backward with respect to inputs and to weights; a multiply-add is two operations.
_OPERATIONS_PER_MULTIPLY_ADD = 2 * 3
_BUCKET_BYTES = 25 * 2**20  # DDP's


@dataclass(frozen=True)
class WorkerHardware:
    """The hardware of each worker: `cores` of the device (GPUs: 1), `threads` for loading.

    It computes up to `micro_batches_at_once` in one pass.
    `correction` is measured ÷ modelled time of a step, and `loaded_per_thread` images/s, from
    `ilsvrc benchmark` where that has run.
    """

    hardware: Hardware
    device: Device
    is_gpu: bool
    cores: int
    threads: int
    workers_per_node: int
    micro_batches_at_once: int = 1
    correction: float = 1.0
    loaded_per_thread: float | None = None

    @property
    def images_loaded_per_second(self) -> float:
        """By one worker."""
        facts = self.hardware
        decoded = facts.decoded_with_gpu if self.is_gpu else facts.decoded_by_cpu
        return self.threads * (self.loaded_per_thread or decoded.value)


@dataclass(frozen=True)
class StepParts:
    """Seconds of one optimizer step by what they are spent on; their sum is the step."""

    arithmetic: float
    memory_traffic: float
    kernel_launches: float
    optimizer: float
    gradient_exchange: float
    loader: float

    @property
    def seconds(self) -> float:
        return sum(asdict(self).values())

    @property
    def bottleneck(self) -> str:
        parts: dict[str, float] = asdict(self)
        return max(parts, key=lambda name: parts[name]).replace("_", " ")


def step_parts(
    workload: Workload, machine: WorkerHardware, num_workers: int, micro_batches_each: int
) -> StepParts:
    """Return the parts of a step of `micro_batches_each` micro-batches on each worker."""
    device, facts = machine.device, machine.hardware
    images = workload.recipe.batch.micro_batch_size * workload.mean_area
    precision = workload.recipe.precision
    peak = device.peak[precision].value * 1e12 * device.efficiency[precision].value
    bandwidth = device.bandwidth.value * 1e9
    slow = machine.correction / machine.cores
    arithmetic = slow * images * workload.multiply_adds * _OPERATIONS_PER_MULTIPLY_ADD / peak
    traffic = slow * images * workload.activation_bytes * facts.activation_passes.value / bandwidth
    launch = machine.correction * workload.layers * facts.launch.value / 1e3 * machine.is_gpu
    optimizer = slow * workload.gradient_bytes * _WEIGHT_PASSES / bandwidth
    in_a_pass = min(machine.micro_batches_at_once, micro_batches_each)
    waiting = max(0.0, launch / in_a_pass - arithmetic - traffic)
    micro_batch = arithmetic + traffic + waiting
    exchange = _exposed_exchange(workload, machine, num_workers, in_a_pass * micro_batch)
    computing = micro_batches_each * micro_batch + optimizer + exchange
    loading = (
        micro_batches_each
        * workload.recipe.batch.micro_batch_size
        / machine.images_loaded_per_second
    )
    return StepParts(
        arithmetic=micro_batches_each * arithmetic,
        memory_traffic=micro_batches_each * traffic,
        kernel_launches=micro_batches_each * waiting,
        optimizer=optimizer,
        gradient_exchange=exchange,
        loader=max(0.0, loading - computing),
    )


def bytes_between_nodes(workload: Workload, machine: WorkerHardware, num_workers: int) -> float:
    """Return what each node sends to others, and receives, in one step."""
    nodes = math.ceil(num_workers / machine.workers_per_node)
    return _ring_factor(nodes) * workload.gradient_bytes


def _exposed_exchange(
    workload: Workload, machine: WorkerHardware, num_workers: int, last_pass: float
) -> float:
    """Return the seconds of the gradients' exchange that don't overlap with the backward pass."""
    device, facts = machine.device, machine.hardware
    near = min(num_workers, machine.workers_per_node)
    between = bytes_between_nodes(workload, machine, num_workers)
    seconds = (
        _ring_factor(near) * workload.gradient_bytes / (device.peers.value * 1e9)
        + between / (device.network.value * facts.network_share.value * 1e9)
        + 2 * math.ceil(math.log2(num_workers)) * facts.delay.value / 1e3
    )
    last_bucket = min(1.0, _BUCKET_BYTES / workload.gradient_bytes)
    return max(seconds - last_pass * 2 / 3, seconds * last_bucket)


def _ring_factor(members: int) -> float:
    """Return how many times its whole data each of `members` sends in a ring all-reduce."""
    return 2 * (members - 1) / members
