"""What fault tolerance costs: while all goes well, and when a worker dies.

    python -m benchmarks.fault_tolerance RECIPE

- `protected`: the steps of a training with its watchdog, stop signal and metrics, against the bare
  loop.
- `stalls`: how long a step waits while its checkpoint is copied, and how much slower the next step
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

import typer
from rich.table import Table

from benchmarks.recovery_time import Recovery, measure_recovery
from pipeline.benchmark.machine_info import MachineInfo, machine_info
from pipeline.benchmark.sample_images import write_sample_images
from pipeline.benchmark.throughput import measurable_recipe
from pipeline.benchmark.throughput_tables import megabytes, ratio
from pipeline.benchmark.timing import ProgressCallback, Series, TimedTask, clock, take_turns
from pipeline.benchmark.train_steps import Bench, first_batches, initial_train_state, steps_of
from pipeline.cli.benchmark_commands import Rounds, Seconds
from pipeline.cli.console import Console, one_line_errors, progress, say
from pipeline.cli.options import Assignments, ClusterName, RecipeName, load_training
from pipeline.config.cluster import Cluster
from pipeline.config.recipe import Recipe
from pipeline.data.loading.loader import Batch
from pipeline.launch.heartbeat import Watchdog
from pipeline.launch.stop_signal import StopSignal
from pipeline.reports.tables import titled_table
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.determinism import computing_on
from pipeline.runtime.distributed import Worker, device_here, threads
from pipeline.tracking.tracker import SilentTracker
from pipeline.trainer.metric_aggregation import MetricAggregator
from pipeline.training.checkpoint import Retention
from pipeline.training.checkpoint_writer import CheckpointWriter
from pipeline.training.train_state import Progress

_STEPS_BETWEEN_REPORTS = 50  # as the clusters of configs/ have it


@dataclass(frozen=True)
class Stalls:
    """Seconds, a value a round: a step, a checkpoint's copy, a step while that is written."""

    step: Series
    copy: Series
    step_while_writing: Series
    checkpoint_bytes: int


@dataclass(frozen=True)
class ProtectionCost:
    """Images per second with and without protection, and what it costs in time."""

    recipe: Recipe
    machine: MachineInfo
    bare: Series
    protected: Series
    stalls: Stalls
    recovery: Recovery


def main(
    recipe: RecipeName,
    on: ClusterName = "laptop",
    set_: Assignments = None,
    runs: Rounds = 5,
    seconds: Seconds = 5.0,
) -> None:
    """Measure what it costs to lose nothing: per step, per checkpoint, per death of a worker."""
    what, where = load_training(recipe, on, set_)
    with progress("measuring") as show:
        result = measure_protection(what, where, rounds=runs, seconds=seconds, progress=show)
    console = Console()
    console.print(protection_table(result))
    for note in protection_notes(result):
        say(console, note)


def measure_protection(
    recipe: Recipe,
    cluster: Cluster,
    *,
    rounds: int = 5,
    seconds: float = 5.0,
    progress: ProgressCallback = lambda done, total: None,
) -> ProtectionCost:
    """Measure `recipe`'s steps on sample images, and deaths of workers on the digits.

    Raises `UserError` for a recipe of signals, a network that doesn't fit its input, and a GPU that
    isn't there.
    """
    device = device_here(cluster.workers.device)
    machine = machine_info(device)
    recipe = measurable_recipe(recipe, device)
    with (
        TemporaryDirectory(prefix="ilsvrc-") as name,
        threads(cluster.workers.cpus),
        computing_on(device, deterministic=cluster.deterministic),
    ):
        folder = Path(name)
        num_images = recipe.batch.micro_batch_size
        split = write_sample_images(folder / "images", num_images, recipe.network.num_classes)
        bench = Bench(recipe, split, cluster.loading, cluster.channels_last, device)
        batches = first_batches(bench, 1)
        protected = _protected_steps(bench, itertools.cycle(batches), folder)
        with closing(protected), closing(_bare_steps(bench, itertools.cycle(batches))) as bare:
            tasks = {"bare": bare, "protected": protected}
            rates = take_turns(tasks, rounds, seconds, device, progress, steady=tasks)
        stalls = _measure_stalls(bench, itertools.cycle(batches), folder / "checkpoints", rounds)
        recovery = measure_recovery(folder, rounds)
    return ProtectionCost(recipe, machine, rates["bare"], rates["protected"], stalls, recovery)


def protection_table(result: ProtectionCost) -> Table:
    """Return medians and ranges of the ratios and seconds that matter."""
    stalls, recovery = result.stalls, result.recovery
    network, rounds = result.recipe.network.name, len(result.bare.values)
    table = titled_table(f"Protection of {network}, {rounds} rounds")
    table.add_column("")
    table.add_column("Median (lowest–highest)", justify="right", no_wrap=True)
    table.add_row("images/s, protected ÷ bare", ratio(result.protected.over(result.bare)))
    table.add_row("copying a checkpoint ÷ a step", ratio(stalls.copy.over(stalls.step)))
    table.add_row(
        "a step while it is written ÷ a step",
        ratio(stalls.step_while_writing.over(stalls.step)),
        end_section=True,
    )
    table.add_row("seconds from a worker's death to", "")
    table.add_row("  the end of the other worker", _seconds(recovery.detection))
    table.add_row("  the start of new workers", _seconds(recovery.restart))
    table.add_row("  the loaded checkpoint", _seconds(recovery.restoring))
    table.add_row("  the next optimizer step", _seconds(recovery.first_step))
    table.add_row("  in all", _seconds(recovery.total))
    return table


def protection_notes(result: ProtectionCost) -> Iterator[str]:
    """Yield lines on what it was measured."""
    machine, stalls = result.machine, result.stalls
    yield f"{machine.gpu or machine.cpu}, {machine.num_cores} cores"
    yield (
        f"a step is {result.recipe.batch.micro_batch_size} images in {result.recipe.precision} and "
        f"takes {stalls.step.median:.2f} s; a checkpoint has {megabytes(stalls.checkpoint_bytes)}"
    )
    yield "deaths: LeNet-5 on the digits, two workers on the CPU, one of them killed"


def _bare_steps(bench: Bench, batches: Iterator[Batch]) -> TimedTask:
    for _ in steps_of(bench, initial_train_state(bench), batches):
        yield bench.recipe.batch.micro_batch_size


def _protected_steps(bench: Bench, batches: Iterator[Batch], folder: Path) -> TimedTask:
    """Take steps as a worker does, without checkpoints, which are measured by themselves."""
    run, worker = RunFolder(folder), Worker(0, 1, bench.device)
    watchdog = Watchdog(folder, 300, worker, lambda event: None)
    stop_signal = StopSignal(run, 1e9, worker)
    silent = SilentTracker()
    metrics = MetricAggregator(bench.recipe, bench.sampler, worker, lambda event: None, silent)
    with watchdog.watching():
        steps = steps_of(bench, initial_train_state(bench), watchdog.counted(batches))
        for number, result in enumerate(steps, 1):
            metrics.add(result)
            watchdog.step_done()
            stop_signal.poll()
            if number % _STEPS_BETWEEN_REPORTS == 0:
                metrics.report_steps()
            yield bench.recipe.batch.micro_batch_size


def _measure_stalls(bench: Bench, batches: Iterator[Batch], folder: Path, rounds: int) -> Stalls:
    """Take a step, write a checkpoint, take a step meanwhile; `rounds` times after a warm-up."""
    state = initial_train_state(bench)
    steps = steps_of(bench, state, batches)
    spans: list[tuple[float, ...]] = []
    with closing(CheckpointWriter(folder, Retention(2), lambda text: None)) as writer:
        for number in range(rounds + 1):
            times = [clock(bench.device)]
            next(steps)
            times.append(clock(bench.device))
            writer.write(state.to_checkpoint(Progress(0, number)))
            times.append(clock(bench.device))
            next(steps)
            times.append(clock(bench.device))
            writer.flush()
            spans.append(tuple(end - start for start, end in pairwise(times)))
    size = max(path.stat().st_size for path in folder.iterdir())
    step, copy, step_while_writing = map(Series, zip(*spans[1:], strict=True))
    return Stalls(step, copy, step_while_writing, size)


def _seconds(series: Series) -> str:
    return f"{series.median:.1f} ({series.lowest:.1f}–{series.highest:.1f})"


if __name__ == "__main__":
    with one_line_errors():
        typer.run(main)
