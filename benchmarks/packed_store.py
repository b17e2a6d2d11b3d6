"""What the packed data set costs and gives: packing, opening, reading, against loose files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.table import Table

from benchmarks.packing_speed import Packing, measure_packing
from benchmarks.reading_speed import Opening, Reading, measure_opening, measure_reading
from pipeline.benchmark.machine_info import MachineInfo, machine_info
from pipeline.benchmark.sample_images import write_pictures
from pipeline.benchmark.throughput import as_measured
from pipeline.benchmark.throughput_tables import megabytes, ratio
from pipeline.benchmark.timing import ProgressCallback
from pipeline.benchmark.train_steps import Bench
from pipeline.config.cluster import Cluster
from pipeline.config.recipe import Recipe
from pipeline.reports.tables import titled_table
from pipeline.runtime.distributed import threads


@dataclass(frozen=True)
class StoreBenchmark:
    recipe: Recipe
    machine: MachineInfo
    num_images: int
    packing: Packing
    opening: Opening
    reading: Reading


def run_store_benchmark(
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
    """Pack `num_images` pictures, open an index of `num_rows`, and load, on the CPU, by `recipe`.

    All in `rounds` rounds; a turn of reading lasts `seconds`.
    """
    device = torch.device("cpu")
    machine = machine_info(device)
    recipe = as_measured(recipe, machine)
    with TemporaryDirectory(prefix="ilsvrc-") as name, threads(cluster.workers.cpus):
        folder = Path(name)
        pictures = write_pictures(folder / "pictures", num_images, recipe.network.num_classes)
        bench = Bench(recipe, pictures, cluster.loading, cluster.channels_last, device)
        return StoreBenchmark(
            recipe=recipe,
            machine=machine,
            num_images=num_images,
            packing=measure_packing(pictures, folder, rounds, num_workers, progress),
            opening=measure_opening(folder / "large", num_rows, rounds),
            reading=measure_reading(bench, folder / "loose", rounds, seconds, progress),
        )


def store_benchmark_table(result: StoreBenchmark) -> Table:
    """Return the medians of images per second, and their ratios with ranges."""
    packing, reading = result.packing, result.reading
    table = titled_table("The packed data set")
    for name in ("Images/s", "packed", "loose files", "ratio"):
        table.add_column(name, justify="left" if name == "Images/s" else "right", no_wrap=True)
    for name, ours, peer in (
        ("pack ÷ extract, then decode", packing.ours, packing.peer),
        (f"the same, {packing.num_workers} workers each", packing.ours, packing.peer_with_workers),
        ("the first, a second of one core", packing.ours_per_cpu, packing.peer_per_cpu),
        ("bytes in random order", reading.bytes_packed, reading.bytes_loose),
        ("loader", reading.loaded_packed, reading.loaded_loose),
        (f"training {result.recipe.network.name}", reading.trained_packed, reading.trained_loose),
    ):
        medians = (f"{series.median:,.4g}" for series in (ours, peer))
        table.add_row(name, *medians, ratio(ours.over(peer)))
    return table


def store_benchmark_notes(result: StoreBenchmark) -> Iterator[str]:
    """Say what the memory and the time to open were, and on what it was measured."""
    packing, opening = result.packing, result.opening
    yield (
        f"packing took at most {megabytes(packing.taken)} more than before, in this process and "
        f"{packing.num_workers} workers, and Ray's own processes {megabytes(packing.by_ray)}"
    )
    yield (
        f"opening {opening.num_rows:,} rows took at most {opening.seconds:.2f} s and "
        f"{megabytes(opening.at_most)}, of which {megabytes(opening.kept)} stay"
    )
    yield (
        f"{result.machine.cpu}, {result.machine.num_cores} cores; {result.num_images} JPEGs of "
        "about 500×375 cropped from scikit-learn's photos, in the page cache; medians, ratios "
        f"with their ranges, of {len(packing.ours.values)} rounds"
    )
