"""A benchmark as a table for a terminal."""

from collections.abc import Iterator

from rich.table import Table

from pipeline.benchmark.throughput import Benchmark
from pipeline.benchmark.timing import Series
from pipeline.reports.tables import titled_table


def benchmark_table(result: Benchmark) -> Table:
    """Return medians and ranges of images per second, and of the ratios that matter."""
    num_rounds = len(result.loader.values)
    table = titled_table(f"{result.recipe.network.name}, {num_rounds} rounds")
    table.add_column("Images/s")
    table.add_column("Median (lowest–highest)", justify="right", no_wrap=True)
    table.add_row("loader", _rates(result.loader))
    if result.baseline:
        count = result.baseline.num_workers
        name = f"torchvision's, {count} worker{'s' * (count != 1)}"
        table.add_row(name, _rates(result.baseline.rates))
    table.add_row(f"step, {_kind(result)}", _rates(result.step))
    table.add_row("step, float32 contiguous", _rates(result.plain_step))
    table.add_row("loader and step together", _rates(result.together), end_section=True)
    if result.baseline:
        table.add_row("loader ÷ torchvision's", ratio(result.loader.over(result.baseline.rates)))
    table.add_row("step ÷ float32 contiguous", ratio(result.step.over(result.plain_step)))
    if result.without_norm:
        table.add_row("step ÷ without response norm", ratio(result.step.over(result.without_norm)))
    slower = result.loader.slower(result.step)
    table.add_row("together ÷ slower of the two", ratio(result.together.over(slower)))
    return table


def benchmark_notes(result: Benchmark) -> Iterator[str]:
    """Yield lines on what it was measured, and what was left out."""
    machine, workers, loading = result.machine, result.cluster.workers, result.cluster.loading
    memory, recipe = result.memory, result.recipe
    where = f"{machine.gpu}; " if machine.gpu else ""
    bfloat16 = (
        "computes bfloat16"
        if machine.computes_bfloat16
        else "has no bfloat16, so that the steps are in float32"
    )
    yield f"{where}{machine.cpu}, {machine.num_cores} cores; {bfloat16}"
    yield (
        f"one worker, threads: {loading.threads} to load ({loading.backend}), {workers.cpus} to "
        f"step; a step is {recipe.batch.global_batch_size} images of {recipe.input.size}×"
        f"{recipe.input.size}"
    )
    if workers.device == "cpu" and loading.threads + workers.cpus > machine.num_cores:
        yield "together they have more threads than the machine has cores, and slow each other down"
    yield (
        f"{result.num_images} JPEGs of about 500×375 cropped from scikit-learn's photos, in the "
        "page cache; the recipe's data isn't read"
    )
    if result.baseline:
        tried = ", ".join(map(str, result.baseline.tried))
        yield (
            f"torchvision: {result.baseline.augmentation} in uint8, normalized as a batch; tried "
            f"{tried} workers"
        )
    yield (
        f"memory of the loader: {megabytes(memory.after_first_epoch)} after the first epoch, "
        f"{megabytes(memory.after_last_epoch)} after epoch {memory.epochs} "
        f"({memory.growth:+.1f} %)"
    )


def _kind(result: Benchmark) -> str:
    layout = "channels-last" if result.cluster.channels_last else "contiguous"
    return f"{result.recipe.precision} {layout}"


def _rates(series: Series) -> str:
    digits = 0 if series.median >= 100 else 1 if series.median >= 10 else 2
    low, middle, high = (
        f"{value:,.{digits}f}" for value in (series.lowest, series.median, series.highest)
    )
    return f"{middle} ({low}–{high})"


def ratio(series: Series) -> str:
    return f"{series.median:.2f} ({series.lowest:.2f}–{series.highest:.2f})"


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
