"""The commands of `ilsvrc`: each parses, and calls one function.

What is heavy (torch, Ray, MLflow) is imported by the function that needs it, so that `--help`
answers at once.
"""

import json
from typing import Annotated

import typer

from pipeline.cli import (
    benchmark_commands,
    data_commands,
    evaluation_commands,
    planning_commands,
    report_commands,
    submit_commands,
    training_commands,
)
from pipeline.cli.console import console_for_tables
from pipeline.runtime.errors import UserError

app = typer.Typer(
    help="Train and reproduce ImageNet's classic networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)


def describe(
    name: Annotated[
        str | None, typer.Argument(help="A network's name.", show_default=False)
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every network, as published.")] = False,
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
    batch: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Images whose activations are kept.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List a network's layers: shapes, parameters, multiply-adds, receptive fields, memory."""
    from pipeline.models.summary import summarize_model, summarize_zoo
    from pipeline.reports.summary_tables import summary_tables

    if all_ == (name is not None):
        raise UserError("describe: give either the name of a network or --all")
    if all_ and (input_ is not None or classes is not None):
        raise UserError("describe --all: networks are as published; leave --input, --classes out")
    found = summarize_zoo(batch) if name is None else summarize_model(name, input_, classes, batch)
    if as_json:
        typer.echo(json.dumps(found.document(), indent=2))
        return
    console = console_for_tables()
    for part in summary_tables(found):
        console.print(part)


app.add_typer(data_commands.prepare, name="prepare", rich_help_panel="Data sets")
app.add_typer(data_commands.export, name="export", rich_help_panel="Data sets")
app.add_typer(submit_commands.jobs, name="jobs", rich_help_panel="Trainings")
for panel, commands in {
    "Data sets": (data_commands.doctor, data_commands.stage),
    "Trainings": (
        planning_commands.check,
        planning_commands.plan,
        training_commands.train,
        submit_commands.submit,
        training_commands.replay,
    ),
    "Results": (
        evaluation_commands.evaluate,
        evaluation_commands.predictions,
        evaluation_commands.ensemble,
        evaluation_commands.paired,
        evaluation_commands.submission,
        evaluation_commands.score,
        report_commands.compare,
        report_commands.published,
        report_commands.report,
        report_commands.register,
    ),
    "Networks": (describe, report_commands.visualize),
    "Speed": (benchmark_commands.benchmark,),
}.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
