"""The commands that compare, publish, report and show: parse, call one function each."""

from typing import Annotated

import typer
from rich.console import Console

from pipeline.cli_console import say
from pipeline.cluster import load_cluster

On = Annotated[
    str,
    typer.Option(
        "--on",
        metavar="CLUSTER",
        help="Whose runs: a name in configs/clusters, or a YAML file.",
    ),
]
Experiment = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="An MLflow experiment.", show_default="the cluster's"),
]
Runs = Annotated[
    list[str] | None,
    typer.Argument(metavar="[RUN]...", help="Runs by their names.", show_default="all"),
]


def compare(
    runs: Runs = None,
    with_: Annotated[
        str | None,
        typer.Option(
            "--with",
            metavar="TEXT",
            help="A number that you have seen somewhere, as 'alexnet 15.3': what it is, and "
            "whether it may be held against the runs.",
        ),
    ] = None,
    on: On = "laptop",
    experiment: Experiment = None,
) -> None:
    """Put the runs of an experiment beside the published results of the same protocol."""
    from pipeline.reports.answer import answers, asked_for
    from pipeline.reports.comparison import comparison_tables
    from pipeline.reports.measured import measured_from_runs
    from pipeline.tracking.queries import evaluated_runs, named_runs

    asked = asked_for(with_) if with_ else []
    tracking = load_cluster(on).tracking
    found = evaluated_runs(tracking.uri, experiment or tracking.experiment)
    results = measured_from_runs(named_runs(found, runs))
    console = Console()
    if asked:
        for result in asked:
            say(console, "\n".join(answers(result, results)))
        return
    for table in comparison_tables(results):
        console.print(table)


def published(
    network: Annotated[
        str | None,
        typer.Argument(help="A network, alone and in ensembles.", show_default="all"),
    ] = None,
    to_mlflow: Annotated[
        bool,
        typer.Option(
            "--to-mlflow",
            help="Put them in the experiment as finished runs, tagged kind=published. Again: "
            "nothing is added.",
        ),
    ] = False,
    on: On = "laptop",
    experiment: Experiment = None,
) -> None:
    """Print the published results, each with its protocol and source."""
    from pipeline.reports.published_tables import published_tables, results_of

    console = Console()
    results = results_of(network)
    if to_mlflow:
        from pipeline.tracking.published_runs import record_published

        tracking = load_cluster(on).tracking
        name = experiment or tracking.experiment
        added = record_published(tracking.uri, name, results)
        say(console, f"{added} of {len(results)} published results added to experiment '{name}'")
        return
    for table in published_tables(results):
        console.print(table)
