"""What there is to name: recipes and clusters, a line each; and the versions of what runs."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from pipeline.cli.console import console_for_tables
from pipeline.config.first_sentence import first_sentence
from pipeline.runtime.versions import installed_versions, own_version


def recipes() -> None:
    """List the recipes, the working folder's own before those installed."""
    _list("recipes")


def clusters() -> None:
    """List the clusters, the working folder's own before those installed."""
    _list("clusters")


def _list(folder: str) -> None:
    from pipeline.config.yaml import config_files

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for file in config_files(folder):
        table.add_row(Text(file.stem), Text(first_sentence(file)))
    console_for_tables().print(table)


def _print_versions(asked: bool) -> None:
    if not asked:
        return
    typer.echo(f"ilsvrc {own_version() or '(not installed)'}")
    for name, number in installed_versions().items():
        typer.echo(f"{name} {number}")
    raise typer.Exit


def global_options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_print_versions,
            help="Print the versions of ilsvrc, torch, Ray, DALI and MLflow.",
        ),
    ] = False,
) -> None:
    """Train and reproduce ImageNet's classic networks."""
