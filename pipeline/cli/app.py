"""The command `ilsvrc`: parses, calls one function each.

What is heavy (torch, Ray, MLflow) is imported by the function that needs it, so that `--help`
answers at once.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline.cli import (
    benchmark_commands,
    data_commands,
    evaluation_commands,
    planning_commands,
    report_commands,
    submit_commands,
)
from pipeline.cli.console import console_for_tables, one_line_errors, say
from pipeline.cli.options import (
    Assignments,
    ClusterAssignments,
    ClusterName,
    RecipeName,
    StartFrom,
    load_only_cluster,
    load_training,
)
from pipeline.config.recipe import Expectation
from pipeline.runtime.errors import UserError

app = typer.Typer(
    help="Train and reproduce ImageNet's classic networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)


def train(
    recipe: RecipeName,
    on: ClusterName = "laptop",
    set_: Assignments = None,
    run: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The run's name. The same name again goes on with that run.",
            show_default="the recipe's name and digest",
        ),
    ] = None,
    start_from: StartFrom = None,
) -> None:
    """Train a network, or go on where the same training stopped."""
    from pipeline.reports.comparison import comparison_markdown, comparison_tables
    from pipeline.tracking.measured_runs import measured_from_runs
    from pipeline.tracking.queries import tracked_run
    from pipeline.trainer.driver import conclude, run_training

    what, where = load_training(recipe, on, set_)
    console = Console()
    outcome = run_training(what, Path(recipe).stem, where, run, console, start_from)
    if outcome is None:
        say(console, "this training is complete; `ilsvrc compare` shows its result")
        return
    uri = where.tracking.uri
    run_id = outcome.folder.tracking_run_id()
    if not run_id:
        say(console, "the tracking store is still away; the same command records the result later")
        return
    results = measured_from_runs([tracked_run(uri, run_id)])
    conclude(outcome, uri, comparison_markdown(results))
    console.print(comparison_tables(results)[0])
    if what.expect:
        say(console, f"expected by the recipe: {_expectation(what.expect)}")
    say(console, _how_to_look(uri))


def replay(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's name, or its folder.")],
    step: Annotated[int, typer.Argument(metavar="STEP", help="As MLflow counts them, from 1.")],
    on: ClusterName = "laptop",
    set_: ClusterAssignments = None,
) -> None:
    """Run one step of a past training again, and show its loss, gradient and worst images."""
    from pipeline.reports.replay_tables import replay_line, replay_table
    from pipeline.runs.run_folder import find_run
    from pipeline.trainer.driver import run_replay

    cluster = load_only_cluster(on, set_)
    replayed = run_replay(find_run(cluster.runs_dir, run), step, cluster, Console())
    console = Console()
    say(console, replay_line(replayed))
    console.print(replay_table(replayed))


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
        train,
        submit_commands.submit,
        replay,
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


def main() -> None:
    """Run the command."""
    with one_line_errors():
        app()


def _expectation(expect: Expectation) -> str:
    errors = {"top-1 error": expect.top1_error, "top-5 error": expect.top5_error}
    figures = ", ".join(
        f"{name} {error:g} %" for name, error in errors.items() if error is not None
    )
    return f"{figures} ({expect.protocol}; {expect.source})"


def _how_to_look(uri: str) -> str:
    if uri.startswith("sqlite:"):
        command = Path(sys.executable).with_name("mlflow")
        return f"to look at the runs in a browser: {command} ui --backend-store-uri {uri}"
    return "the tracking server shows the run and its curves"
