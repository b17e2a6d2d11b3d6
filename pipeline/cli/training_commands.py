"""The commands that train on this machine or its Ray: parse, call one function each, show."""

import sys
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.command_line import command_line
from pipeline.cli.completion import complete_run
from pipeline.cli.console import Console, importing, say
from pipeline.cli.options import (
    Assignments,
    ClusterAssignments,
    ClusterName,
    NewHead,
    RecipeName,
    StartFrom,
    load_only_cluster,
    load_training,
)
from pipeline.runtime.background import said_if_long
from pipeline.runtime.credentials import without_credentials
from pipeline.runtime.errors import UserError

if TYPE_CHECKING:
    from pipeline.config.cluster import Cluster
    from pipeline.config.recipe import Recipe


def train(
    context: typer.Context,
    recipe: RecipeName,
    on: ClusterName = "laptop",
    set_: Assignments = None,
    run: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The run's name. The same name again goes on with that run.",
            autocompletion=complete_run,
            show_default="the recipe's name and digest",
        ),
    ] = None,
    start_from: StartFrom = None,
    new_head: NewHead = False,
) -> None:
    """Train a network, or go on where the same training stopped."""
    from pipeline.config.recipe import load_recipe

    what, where = load_training(recipe, on, set_)
    as_written, command = load_recipe(recipe), command_line(context.obj)
    _train(what, as_written, Path(recipe).stem, where, run, command, start_from, new_head=new_head)


def run_job(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A job, as jobs/resnet152.yaml.")],
    on: ClusterName = "laptop",
    set_: ClusterAssignments = None,
    run: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only the training of this run.", show_default="all"),
    ] = None,
) -> None:
    """Train and evaluate a job here, one training after the other; the last one concludes it."""
    from pipeline.config.job import load_job
    from pipeline.config.recipe import load_recipe

    job, cluster, console = load_job(file), load_only_cluster(on, set_), Console()
    with importing(console):
        from pipeline.reports.comparison_tables import result_tables
        from pipeline.reports.expected_results import expected_lines, find_expected
        from pipeline.results.measured import measured_from_predictions
        from pipeline.runs.run_folder import RunFolder
        from pipeline.tracking.job_runs import finish_job_run
        from pipeline.trainer.job_evaluation import evaluate_ensembles, evaluate_member

    command = command_line(context.obj)
    expected = find_expected(job.document.expect)
    for member in job.members if run is None else [job.member(run)]:
        RunFolder(cluster.runs_dir / member.run).stop_request.unlink(missing_ok=True)
        name = Path(member.recipe_name).stem
        as_written = load_recipe(member.recipe_name)
        _train(member.recipe, as_written, name, cluster, member.run, command, job_name=job.name)
        evaluate_member(job, member, cluster, console, command)
    predictions = evaluate_ensembles(job, cluster, command)
    if predictions is None:
        say(console, f"job {job.name}: the last of its {len(job.members)} trainings concludes it")
        return
    results = [measured_from_predictions(one) for one in predictions]
    lines = list(expected_lines(expected, results))
    finish_job_run(cluster, job.name, "\n\n".join(lines))
    for table in result_tables(results, console.width):
        console.print(table)
    for line in lines:
        say(console, line)


def replay(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run's name, or its folder.", autocompletion=complete_run
        ),
    ],
    step: Annotated[int, typer.Argument(metavar="STEP", help="As MLflow counts them, from 1.")],
    on: ClusterName = "laptop",
    set_: ClusterAssignments = None,
) -> None:
    """Run one step of a past training again, and show its loss, gradient and worst images."""
    from pipeline.runs.run_folder import find_run

    cluster, console = load_only_cluster(on, set_), Console()
    folder = find_run(cluster.runs_dir, run)
    with importing(console):
        from pipeline.reports.replay_tables import replay_line, replay_table
        from pipeline.trainer.driver import run_replay

    step_again = run_replay(folder, step, cluster, console)
    say(console, replay_line(step_again))
    console.print(replay_table(step_again))


def _train(
    recipe: "Recipe",
    as_written: "Recipe",
    recipe_name: str,
    cluster: "Cluster",
    run: str | None,
    command: str | None,
    start_from: str | None = None,
    job_name: str | None = None,
    *,
    new_head: bool = False,
) -> None:
    """Train, and show the result beside the published ones.

    `as_written` is the recipe before the user changed values of it.
    """
    from pipeline.runs.run_folder import find_start

    console = Console()
    if start_from:
        find_start(cluster.runs_dir, start_from)  # before seconds of imports
    with importing(console):
        from pipeline.reports.comparison_tables import comparison_markdown, result_tables
        from pipeline.reports.expected_results import expectation_line
        from pipeline.results.measured import Measured
        from pipeline.tracking.measured_runs import measured_from_runs
        from pipeline.tracking.queries import tracked_run
        from pipeline.trainer.driver import conclude, run_training

    result = run_training(
        recipe, recipe_name, cluster, run, console, start_from, command, job_name, new_head=new_head
    )
    if result is None:
        say(console, "this training is complete; `ilsvrc compare` shows its result")
        return
    uri = cluster.tracking.uri
    run_id = result.folder.tracking_run_id()
    if not run_id:
        say(console, "the tracking store is still away; the same command records the result later")
        return
    results: list[Measured] = []
    notice = f"waiting for tracking store {without_credentials(uri)} to take the result"
    refusals = nullcontext() if result.is_delivered else suppress(UserError)  # have been said
    with said_if_long(partial(say, console), notice), refusals:
        results = measured_from_runs([tracked_run(uri, run_id)])
        if results and result.is_delivered:
            conclude(result, uri, results, comparison_markdown(results))
    if not results:
        say(console, "the tracking store lacks the result; the same command records it later")
        return
    for table in result_tables(results, console.width):
        console.print(table)
    if line := expectation_line(as_written, recipe, results[0].key):
        say(console, line)
    say(console, _how_to_look(uri, cluster.tracking.experiment))


def _how_to_look(uri: str, experiment: str) -> str:
    from pipeline.tracking.mlflow_page import experiment_address

    address = experiment_address(uri, experiment)
    if uri.startswith("sqlite:"):
        command = Path(sys.executable).with_name("mlflow")
        return (
            f"to look at the runs in a browser: {command} ui --backend-store-uri {uri}, then "
            f"{address}"
        )
    return f"the run and its curves: {address}"
