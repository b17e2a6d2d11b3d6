"""The commands that compare, report and draw: parse, call one function each."""

import re
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.completion import complete_published, complete_run
from pipeline.cli.console import Console, progress, say
from pipeline.cli.options import ClusterName, load_cluster
from pipeline.runtime.errors import UserError
from pipeline.runtime.storage import write_atomically

_MOST_COMPARED = 10  # by MLflow's page, side by side

Experiment = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="An MLflow experiment.", show_default="the cluster's"),
]
Runs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN]...",
        help="Runs by their names.",
        show_default="all",
        autocompletion=complete_run,
    ),
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
    on: ClusterName = "laptop",
    experiment: Experiment = None,
) -> None:
    """Put the runs of an experiment beside the published results of the same protocol."""
    from pipeline.reports.comparison_tables import comparison_tables
    from pipeline.reports.published_number import explain_number, find_published
    from pipeline.tracking.measured_runs import measured_from_runs
    from pipeline.tracking.mlflow_page import comparison_address
    from pipeline.tracking.queries import evaluated_runs, named_runs

    numbers = find_published(with_) if with_ else []
    tracking = load_cluster(on).tracking
    found = evaluated_runs(tracking.uri, experiment or tracking.experiment)
    results = measured_from_runs(named_runs(found, runs))
    console = Console()
    if numbers:
        for number in numbers:
            say(console, "\n".join(explain_number(number, results)))
        return
    for table in comparison_tables(results, console.width):
        console.print(table)
    ids = list(dict.fromkeys(result.run_id for result in results))
    if 2 <= len(ids) <= _MOST_COMPARED:
        address = comparison_address(tracking.uri, experiment or tracking.experiment, ids)
        say(console, f"side by side in MLflow: {address}")


def published(
    network: Annotated[
        str | None,
        typer.Argument(
            help="A network, alone and in ensembles.",
            show_default="all",
            autocompletion=complete_published,
        ),
    ] = None,
    to_mlflow: Annotated[
        bool,
        typer.Option(
            "--to-mlflow",
            help="Put them in the experiment as finished runs, tagged kind=published. Again: "
            "nothing is added.",
        ),
    ] = False,
    on: ClusterName = "laptop",
    experiment: Experiment = None,
) -> None:
    """Print the published results with protocol and source, and what released weights reach."""
    from pipeline.reports.published_tables import published_tables, released_lines, results_of

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
    for line in released_lines(results) if network else ():
        say(console, line)


def register(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="A finished run's name.", autocompletion=complete_run),
    ],
    as_: Annotated[
        str | None,
        typer.Option("--as", metavar="NAME", help="As which model.", show_default="its network"),
    ] = None,
    on: ClusterName = "laptop",
    experiment: Experiment = None,
) -> None:
    """Put a run's network into MLflow's registry with its results as tags; again: new tags."""
    from pipeline.results.measured import result_tags
    from pipeline.tracking.measured_runs import measured_from_runs
    from pipeline.tracking.model_registry import register_model
    from pipeline.tracking.queries import evaluated_runs, named_runs

    tracking = load_cluster(on).tracking
    runs = evaluated_runs(tracking.uri, experiment or tracking.experiment)
    found = named_runs(runs, [run])
    training = next((one for one in found if one.name == run and not one.parent), None)
    if training is None:
        evaluated = found[0].tags.get("evaluation.run", "another run")
        raise UserError(f"'{run}' is an evaluation of '{evaluated}'; register that one")
    name = as_ or training.params["recipe.network.name"]
    tags = result_tags(measured_from_runs(found))
    version = register_model(tracking.uri, training, name, tags)
    say(Console(), f"{name}, version {version}, tagged with what is known of: {', '.join(tags)}")


def visualize(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A trained run's name, or its folder.", autocompletion=complete_run
        ),
    ],
    what: Annotated[
        str,
        typer.Option(
            metavar="filters|activations|deconvnet|occlusion",
            help="The first layer's filters; the patches that excite units most; these with their "
            "projection back to the pixels; where covering an image costs its class most.",
        ),
    ] = "filters",
    layer: Annotated[
        str | None, typer.Option(metavar="NAME", show_default="the last convolution")
    ] = None,
    units: Annotated[
        str | None,
        typer.Option(metavar="0,5,17", help="Units of the layer.", show_default="nine of them"),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which images.", show_default="the test's")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="How many images to cover in parts.")] = 6,
    on: ClusterName = "laptop",
) -> None:
    """Draw what a trained network has learned, as a PNG in the run's folder and in MLflow."""
    from pipeline.runs.run_folder import find_run

    cluster = load_cluster(on)
    folder = find_run(cluster.runs_dir, run)
    with progress("looking") as shown:
        from pipeline.reports.feature_figures import feature_figure, picture_name
        from pipeline.reports.figure_style import as_png
        from pipeline.visualization.pictures import look
        from pipeline.visualization.trained_model import load_trained_model, store_picture

        visualized = load_trained_model(folder, cluster, split)
        found = look(visualized, what, layer, _numbers(units), images, shown)
        png = as_png(feature_figure(visualized, found))
    path = store_picture(folder, cluster.tracking.uri, picture_name(what, found), png)
    say(Console(), str(path))


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise UserError(f"--units {text}: write numbers from 0, with commas between them")
    return [int(number) for number in text.split(",")]


def report(
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An MLflow experiment.")],
    to: Annotated[Path, typer.Option(metavar="FILE", help="Where the page goes.")],
    runs: Annotated[
        list[str] | None,
        typer.Option(
            "--run",
            metavar="RUN",
            help="Can be given again.",
            show_default="all",
            autocompletion=complete_run,
        ),
    ] = None,
    on: ClusterName = "laptop",
) -> None:
    """Write an experiment as one page: results, curves, costs, how to repeat each run."""
    cluster = load_cluster(on)
    uri = cluster.tracking.uri
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--to {to}: {to.parent} can't be made a folder: {error.strerror}; name another file"
        ) from None
    from pipeline.reports.page import build_page
    from pipeline.reports.page_data import load_page_data
    from pipeline.visualization.trained_model import store_figures

    reported = load_page_data(uri, experiment, runs, cluster)
    page = build_page(experiment, reported)
    write_atomically(to.absolute(), page.html.encode())
    for run_id, figures in page.figures.items():
        store_figures(uri, run_id, figures)
    number, drawn = len(reported), len(page.figures)
    newest = f", the {drawn} newest of them drawn; choose others with --run" * (drawn < number)
    size = f"{len(page.html) / 1e6:.1f} MB"
    say(Console(), f"{to}, {size}, {number} run{'s' * (number != 1)}{newest}")
