"""`ilsvrc benchmark`: parses, calls one function."""

from typing import Annotated

import typer

from pipeline.cli.console import Console, progress, say
from pipeline.cli.options import Assignments, ClusterName, RecipeName, load_training

Rounds = Annotated[int, typer.Option(min=1, help="Rounds; each task has a turn in each.")]
Seconds = Annotated[float, typer.Option(help="How long a turn lasts, at least.")]


def benchmark(
    recipe: RecipeName,
    on: ClusterName = "laptop",
    set_: Assignments = None,
    against: Annotated[
        str | None, typer.Option(metavar="torchvision", help="Measure this loader as well.")
    ] = None,
    runs: Rounds = 5,
    images: Annotated[int, typer.Option(min=1, help="Images to make, and to use again.")] = 512,
    seconds: Seconds = 5.0,
) -> None:
    """Measure images/s of loading, of training steps, and of both. Makes its own images."""
    from pipeline.benchmark.throughput import run_benchmark
    from pipeline.benchmark.throughput_tables import benchmark_notes, benchmark_table
    from pipeline.planning.measured_speed import keep_measurement

    what, where = load_training(recipe, on, set_)
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
