"""What it costs to lose nothing: while all goes well, and when a worker dies.

- `protected`: the steps of a training with the watchdog, the ballot and the metrics' journal around
  them, against the bare loop.
- `stall`: how long a step waits for its checkpoint to be copied, and how much slower the next step
  is while that is written, against a step alone.
- `recovery`: workers of a small training are killed (`benchmarks.recovery_time`).
"""

import itertools
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.recovery_time import Recovery, measure_recovery
from pipeline.benchmark.machine_info import MachineInfo, machine_info
from pipeline.benchmark.sample_images import write_pictures
from pipeline.benchmark.throughput import as_measured
from pipeline.benchmark.timing import ProgressCallback, Series, TimedTask, clock, take_turns
from pipeline.benchmark.train_steps import Bench, first_batches, steps_of, train_state_of
from pipeline.config.cluster import Cluster
from pipeline.config.recipe import Recipe
from pipeline.data.loading.loader import Batch
from pipeline.launch.heartbeat import Watchdog
from pipeline.launch.stop_signal import StopSignal
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.distributed import Worker, device_here, threads
from pipeline.tracking.tracker import SilentTracker
from pipeline.trainer.metric_aggregation import MetricAggregator
from pipeline.training.checkpoint import Retention
from pipeline.training.checkpoint_writer import CheckpointWriter
from pipeline.training.train_state import Progress


@dataclass(frozen=True)
class Stalls:
    """Seconds, a value a round: a step, a checkpoint's copy, a step beside its writing."""

    step: Series
    copy: Series
    step_while_writing: Series
    checkpoint_bytes: int


@dataclass(frozen=True)
class Protection:
    """What was measured: images per second with protection and without, and its costs in time."""

    recipe: Recipe
    machine: MachineInfo
    bare: Series
    protected: Series
    stalls: Stalls
    recovery: Recovery


def run_protection_benchmark(
    recipe: Recipe,
    cluster: Cluster,
    *,
    rounds: int = 5,
    seconds: float = 5.0,
    progress: ProgressCallback = lambda done, total: None,
) -> Protection:
    """Measure `recipe`'s steps on pictures made for the occasion, and deaths on the digits.

    Raises `UserError` for a network of signals or one that doesn't fit its input, and a GPU that
    isn't there.
    """
    device = device_here(cluster.workers.device)
    machine = machine_info(device)
    recipe = as_measured(recipe, machine)
    with TemporaryDirectory(prefix="ilsvrc-") as name, threads(cluster.workers.cpus):
        folder = Path(name)
        each = recipe.batch.micro_batch_size
        split = write_pictures(folder / "pictures", each, recipe.network.num_classes)
        bench = Bench(recipe, split, cluster.loading, cluster.channels_last, device)
        batches = first_batches(bench, 1)
        protected = _protected(bench, itertools.cycle(batches), folder)
        with closing(protected), closing(_bare(bench, itertools.cycle(batches))) as bare:
            subjects = {"bare": bare, "protected": protected}
            rates = take_turns(subjects, rounds, seconds, device, progress, steady=subjects)
        stalls = _measure_stalls(bench, itertools.cycle(batches), folder / "checkpoints", rounds)
        recovery = measure_recovery(folder, rounds)
    return Protection(recipe, machine, rates["bare"], rates["protected"], stalls, recovery)


def _bare(bench: Bench, batches: Iterator[Batch]) -> TimedTask:
    for _ in steps_of(bench, train_state_of(bench), batches):
        yield bench.recipe.batch.micro_batch_size


def _protected(bench: Bench, batches: Iterator[Batch], folder: Path) -> TimedTask:
    """Step as a worker does, less the checkpoints, which are measured by themselves."""
    run, worker = RunFolder(folder), Worker(0, 1, bench.device)
    watchdog = Watchdog(folder, 300, worker, lambda event: None)
    ballot = StopSignal(run, 1e9, worker)
    meter = MetricAggregator(bench.recipe, 1, worker, lambda event: None, SilentTracker())
    with watchdog.watching():
        counted = watchdog.counted(batches)
        for number, outcome in enumerate(steps_of(bench, train_state_of(bench), counted), 1):
            meter.add(outcome)
            ballot.poll()
            if number % 50 == 0:  # as clusters have it
                meter.report_steps()
            yield bench.recipe.batch.micro_batch_size


def _measure_stalls(bench: Bench, batches: Iterator[Batch], folder: Path, rounds: int) -> Stalls:
    """Take a step, write a checkpoint, take a step beside it; a first round isn't counted."""
    learner = train_state_of(bench)
    steps = steps_of(bench, learner, batches)
    spans: list[tuple[float, ...]] = []
    with closing(CheckpointWriter(folder, Retention(2), lambda text: None)) as writer:
        for number in range(rounds + 1):
            times = [clock(bench.device)]
            next(steps)
            times.append(clock(bench.device))
            writer.write(learner.to_checkpoint(Progress(0, number)))
            times.append(clock(bench.device))
            next(steps)
            times.append(clock(bench.device))
            writer.flush()
            spans.append(tuple(end - start for start, end in pairwise(times)))
    size = max(path.stat().st_size for path in folder.iterdir())
    step, copy, beside = map(Series, zip(*spans[1:], strict=True))
    return Stalls(step, copy, beside, size)
