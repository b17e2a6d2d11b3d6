"""What protection costs, as a person reads it."""

from collections.abc import Iterator

from rich.table import Table

from benchmarks.fault_tolerance import Protection
from pipeline.benchmark.throughput_tables import megabytes, ratio
from pipeline.benchmark.timing import Series
from pipeline.reports.tables import titled_table


def protection_table(result: Protection) -> Table:
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


def protection_notes(result: Protection) -> Iterator[str]:
    """Say on what it was measured, a line each."""
    machine, stalls = result.machine, result.stalls
    yield f"{machine.gpu or machine.cpu}, {machine.num_cores} cores"
    yield (
        f"a step is {result.recipe.batch.micro_batch_size} images in {result.recipe.precision} and "
        f"takes {stalls.step.median:.2f} s; a checkpoint has {megabytes(stalls.checkpoint_bytes)}"
    )
    yield "deaths: LeNet-5 on the digits, two workers on the CPU, one of them killed"


def _seconds(series: Series) -> str:
    return f"{series.median:.1f} ({series.lowest:.1f}–{series.highest:.1f})"
