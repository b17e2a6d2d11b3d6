"""The commands that measure: parse, call one function each."""

import os
from typing import Annotated

import typer
from rich.console import Console

from pipeline.cli.console import progress, say
from pipeline.cli.options import Assignments, ClusterName, RecipeName, load_job
from pipeline.config.cluster import load_cluster
from pipeline.config.recipe import load_recipe

Rounds = Annotated[int, typer.Option(min=1, help="Rounds; each thing has a turn in each.")]


def benchmark(
    recipe: RecipeName,
    on: ClusterName = "laptop",
    set_: Assignments = None,
    against: Annotated[
        str | None, typer.Option(metavar="torchvision", help="Measure this loader as well.")
    ] = None,
    runs: Rounds = 5,
    images: Annotated[int, typer.Option(min=1, help="Pictures to make, and to use again.")] = 512,
    seconds: Annotated[float, typer.Option(help="How long a turn lasts, at least.")] = 5.0,
) -> None:
    """Measure images/s of loading, of training steps, and of both. Makes its own pictures."""
    from pipeline.benchmark.throughput import run_benchmark
    from pipeline.benchmark.throughput_tables import benchmark_notes, benchmark_table
    from pipeline.planning.measured_speed import keep_measurement

    what, where = load_job(recipe, on, set_)
    with progress("measuring") as show:
        result = run_benchmark(
            what,
            where,
            against=against,
            rounds=runs,
            num_images=images,
            seconds=seconds,
            progress=show,
        )
    console = Console()
    console.print(benchmark_table(result))
    for note in benchmark_notes(result):
        say(console, note)
    path = keep_measurement(where.runs_dir, result.measured_speed())
    say(console, f"kept in {path}, where `ilsvrc plan` starts from")


def benchmark_store(
    runs: Rounds = 5,
    images: Annotated[int, typer.Option(min=64, help="Pictures to make and pack.")] = 8192,
    rows: Annotated[int, typer.Option(min=1000, help="Images of the index to open.")] = 1_281_167,
    seconds: Annotated[float, typer.Option(help="How long a turn of reading lasts.")] = 5.0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="How many pack.", show_default="the CPUs")
    ] = None,
) -> None:
    """Measure packing, opening and reading a data set, against loose files. Makes its own."""
    from benchmarks.packed_store import (
        run_store_benchmark,
        store_benchmark_notes,
        store_benchmark_table,
    )

    with progress("measuring") as show:
        result = run_store_benchmark(
            load_recipe("resnet18", []),
            load_cluster("laptop", []),
            rounds=runs,
            num_images=images,
            num_rows=rows,
            seconds=seconds,
            num_workers=workers or len(os.sched_getaffinity(0)),
            progress=show,
        )
    console = Console()
    console.print(store_benchmark_table(result))
    for note in store_benchmark_notes(result):
        say(console, note)


def benchmark_protection(
    recipe: RecipeName,
    on: ClusterName = "laptop",
    set_: Assignments = None,
    runs: Rounds = 5,
    seconds: Annotated[float, typer.Option(help="How long a turn of steps lasts, at least.")] = 5.0,
) -> None:
    """Measure what it costs to lose nothing: per step, per checkpoint, per death of a worker."""
    from benchmarks.fault_tolerance import run_protection_benchmark
    from benchmarks.fault_tolerance_tables import protection_notes, protection_table

    what, where = load_job(recipe, on, set_)
    with progress("measuring") as show:
        result = run_protection_benchmark(what, where, rounds=runs, seconds=seconds, progress=show)
    console = Console()
    console.print(protection_table(result))
    for note in protection_notes(result):
        say(console, note)
