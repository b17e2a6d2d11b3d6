"""What the packed data set costs and gives: packing, opening, reading, against loose files.

python -m benchmarks.packed_store
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import torch
import typer
from rich.table import Table

from benchmarks.packing_speed import Packing, measure_packing
from benchmarks.reading_speed import Opening, Reading, measure_opening, measure_reading
from pipeline.benchmark.machine_info import MachineInfo, machine_info
from pipeline.benchmark.sample_images import write_sample_images
from pipeline.benchmark.throughput import measurable_recipe
from pipeline.benchmark.throughput_tables import megabytes, ratio
from pipeline.benchmark.timing import ProgressCallback
from pipeline.benchmark.train_steps import Bench
from pipeline.cli.benchmark_commands import Rounds, Seconds
from pipeline.cli.console import Console, one_line_errors, progress, say
from pipeline.config.cluster import Cluster, load_cluster
from pipeline.config.recipe import Recipe, load_recipe
from pipeline.reports.tables import titled_table
from pipeline.runtime.distributed import threads


@dataclass(frozen=True)
class StoreBenchmark:
    """What was measured, on how many sample images, and on which machine."""

    recipe: Recipe
    machine: MachineInfo
    num_images: int
    packing: Packing
    opening: Opening
    reading: Reading


def main(
    runs: Rounds = 5,
    images: Annotated[int, typer.Option(min=64, help="Images to make and pack.")] = 8192,
    rows: Annotated[int, typer.Option(min=1000, help="Images of the index to open.")] = 1_281_167,
    seconds: Seconds = 5.0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="How many pack.", show_default="the CPUs")
    ] = None,
) -> None:
    """Measure packing, opening and reading a data set, against loose files. Makes its own."""
    with progress("measuring") as show:
        result = measure_store(
            load_recipe("resnet18"),
            load_cluster("laptop"),
            rounds=runs,
            num_images=images,
            num_rows=rows,
            seconds=seconds,
            num_workers=workers or len(os.sched_getaffinity(0)),
            progress=show,
        )
    console = Console()
    console.print(store_table(result))
    for note in store_notes(result):
        say(console, note)


def measure_store(
    recipe: Recipe,
    cluster: Cluster,
    *,
    rounds: int,
    num_images: int,
    num_rows: int,
    seconds: float,
    num_workers: int,
    progress: ProgressCallback,
) -> StoreBenchmark:
    """Pack `num_images` images, open an index of `num_rows`, and load, on the CPU, by `recipe`.

    All in `rounds` rounds; a turn of reading lasts `seconds`.
    """
    device = torch.device("cpu")
    machine = machine_info(device)
    recipe = measurable_recipe(recipe, device)
    with TemporaryDirectory(prefix="ilsvrc-") as name, threads(cluster.workers.cpus):
        folder = Path(name)
        split = write_sample_images(folder / "images", num_images, recipe.network.num_classes)
        bench = Bench(recipe, split, cluster.loading, cluster.channels_last, device)
        return StoreBenchmark(
            recipe=recipe,
            machine=machine,
            num_images=num_images,
            packing=measure_packing(split, folder, rounds, num_workers, progress),
            opening=measure_opening(folder / "large", num_rows, rounds),
            reading=measure_reading(bench, folder / "loose", rounds, seconds, progress),
        )


def store_table(result: StoreBenchmark) -> Table:
    """Return the medians of images per second, and their ratios with ranges."""
    packing, reading = result.packing, result.reading
    with_workers = packing.torchvision_with_workers
    table = titled_table("The packed data set")
    for name in ("Images/s", "packed", "loose files", "ratio"):
        table.add_column(name, justify="left" if name == "Images/s" else "right", no_wrap=True)
    for name, ours, theirs in (
        ("pack ÷ extract, then decode", packing.ours, packing.torchvision),
        (f"the same, {packing.num_workers} workers each", packing.ours, with_workers),
        ("the first, a second of one core", packing.ours_per_cpu, packing.torchvision_per_cpu),
        ("bytes in random order", reading.bytes_packed, reading.bytes_loose),
        ("loader", reading.loaded_packed, reading.loaded_loose),
        (f"training {result.recipe.network.name}", reading.trained_packed, reading.trained_loose),
    ):
        medians = (f"{series.median:,.4g}" for series in (ours, theirs))
        table.add_row(name, *medians, ratio(ours.over(theirs)))
    return table


def store_notes(result: StoreBenchmark) -> Iterator[str]:
    """Yield lines on the memory, the time to open, and what it was measured on."""
    packing, opening = result.packing, result.opening
    yield (
        f"packing took at most {megabytes(packing.memory)} more than before, in this process and "
        f"{packing.num_workers} workers, and Ray's own processes {megabytes(packing.memory_of_ray)}"
    )
    yield (
        f"opening {opening.num_rows:,} rows took at most {opening.seconds:.2f} s and "
        f"{megabytes(opening.peak)}, of which {megabytes(opening.kept)} stay"
    )
    yield (
        f"{result.machine.cpu}, {result.machine.num_cores} cores; {result.num_images} JPEGs of "
        "about 500×375 cropped from scikit-learn's photos, in the page cache; medians, ratios "
        f"with their ranges, of {len(packing.ours.values)} rounds"
    )


if __name__ == "__main__":
    with one_line_errors():
        typer.run(main)
