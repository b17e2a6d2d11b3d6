"""Commands before a training: what it would cost, and whether it could run."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from pipeline.cli.console import Console, console_for_tables
from pipeline.cli.options import Assignments, ClusterName, RecipeName, load_training


def plan(
    recipe: RecipeName,
    on: ClusterName = "laptop",
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Plan for this device: h100, a100, v100, rtx4090, cpu.",
            show_default="the cluster's",
        ),
    ] = None,
    set_: Assignments = None,
) -> None:
    """Estimate time, GPU-hours, memory, loading and traffic, on one GPU and more."""
    what, where = load_training(recipe, on, set_)
    from pipeline.planning.plan import make_plan
    from pipeline.reports.plan_tables import plan_tables

    console = console_for_tables()
    for part in plan_tables(make_plan(what, where, gpu)):
        console.print(part)


def check(recipe: RecipeName, on: ClusterName = "laptop", set_: Assignments = None) -> None:
    """Look at all that a training needs, on every node and between them; under a minute."""
    job = load_training(recipe, on, set_)
    console = Console()
    with console.status("looking"):
        from pipeline.checks.node_checks import check_nodes
        from pipeline.checks.preflight import preflight

        checks = list(preflight(*job))
        if all(found.passed for found in checks):  # else nodes would only say the same again
            checks += check_nodes(*job)
    table = Table(box=None, show_header=False, pad_edge=False)
    names: dict[tuple[bool, str], list[str]] = {}  # of checks that stumble over the same
    for found in checks:
        names.setdefault((found.passed, found.message), []).append(found.name)
    for (passed, message), same in names.items():
        tick = "[green]✓[/]" if passed else "[red]✗[/]"
        table.add_row(tick, ", ".join(same), Text(message))
    console.print(table)
    if not all(found.passed for found in checks):
        raise typer.Exit(1)
