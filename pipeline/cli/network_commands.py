"""The commands about networks, untrained: their layers, and the list of all."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.completion import complete_network
from pipeline.cli.console import console_for_tables

if TYPE_CHECKING:
    from pipeline.models.summary import ModelSummary, ZooSummary

Batch = Annotated[
    int, typer.Option(min=1, max=1_000_000, help="Images whose activations are kept.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def networks(batch: Batch = 1, as_json: AsJson = False) -> None:
    """List the networks as published: input, parameters, multiply-adds, depth, memory."""
    from pipeline.models.summary import summarize_zoo

    _print(summarize_zoo(batch), as_json)


def describe(
    name: Annotated[
        str,
        typer.Argument(
            help="A network's name.", show_default=False, autocompletion=complete_network
        ),
    ],
    input_: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="CxHxW",
            help="Channels, height and width; CxLENGTH for signals.",
            show_default="as published",
        ),
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, show_default="as published")
    ] = None,
    batch: Batch = 1,
    as_json: AsJson = False,
) -> None:
    """List a network's layers: shapes, parameters, multiply-adds, receptive fields, memory."""
    from pipeline.models.summary import summarize_model

    _print(summarize_model(name, input_, classes, batch), as_json)


def _print(found: "ModelSummary | ZooSummary", as_json: bool) -> None:
    from pipeline.reports.summary_tables import summary_tables

    if as_json:
        typer.echo(json.dumps(found.document(), indent=2))
        return
    console = console_for_tables()
    for part in summary_tables(found):
        console.print(part)
