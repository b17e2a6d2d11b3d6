"""The command `ilsvrc`: parses, calls one function each.

What is heavy (torch, Ray, MLflow) is imported by the function that needs it, so that `--help`
answers at once.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from pipeline.cluster import Cluster, as_folder, load_cluster
from pipeline.errors import InterruptedByUserError, UserError, WorkerFailedError
from pipeline.recipe import Expectation, Recipe, load_recipe

if TYPE_CHECKING:
    from pipeline.data.prepare import Prepared
    from pipeline.reports.comparison import Measured
    from pipeline.tracking.queries import TrackedRun

app = typer.Typer(
    help="Train and reproduce ImageNet's classic networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)
prepare = typer.Typer(
    help="Make a packed data set: shuffled access to tar shards, a Parquet index, digests.",
    no_args_is_help=True,
)
app.add_typer(prepare, name="prepare")
export = typer.Typer(
    help="Write a packed data set as files that others read.", no_args_is_help=True
)
app.add_typer(export, name="export")

RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="What to train: a name in configs/recipes, or a YAML file."
    ),
]
ClusterName = Annotated[
    str,
    typer.Option(
        "--on",
        metavar="CLUSTER",
        help="Where to train: a name in configs/clusters, or a YAML file.",
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Change one value of the recipe (epochs=3), or of the cluster "
        "(cluster.workers.count=1). Can be given again.",
    ),
]
To = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where the data set goes.", show_default="data/NAME"),
]
StorePlace = Annotated[str, typer.Argument(metavar="DIR", help="A packed data set, or its URL.")]
ExportTo = Annotated[Path, typer.Option(metavar="DIR", help="A folder that does not exist yet.")]
Workers = Annotated[
    int | None,
    typer.Option(min=0, help="How many at a time; 0: none but this.", show_default="the CPUs"),
]


@prepare.command()
def digits(to: To = None) -> None:
    """The 1,797 handwritten digits that scikit-learn ships: 898 to train, 899 to test."""
    from pipeline.data.prepare import prepare_digits

    with _progress("packing") as show:
        prepared = prepare_digits(to or Path("data/digits"), show)
    _say_prepared(prepared)


@prepare.command()
def mnist1d(to: To = None) -> None:
    """MNIST-1D's signals of 40 values, drawn here: 4,000 to train, 1,000 to test."""
    from pipeline.data.prepare import prepare_mnist1d

    with _progress("packing") as show:
        prepared = prepare_mnist1d(to or Path("data/mnist1d"), show)
    _say_prepared(prepared)


@prepare.command()
def mnist(
    images: Annotated[Path, typer.Option(metavar="FILE", help="Training images, IDX or IDX.gz.")],
    labels: Annotated[Path, typer.Option(metavar="FILE", help="Their labels.")],
    test_images: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Test images; without them a share is held out as val."),
    ] = None,
    test_labels: Annotated[Path | None, typer.Option(metavar="FILE", help="Their labels.")] = None,
    to: To = None,
    val_share: Annotated[
        float, typer.Option(help="Share of each class held out as val, without test files.")
    ] = 0.1,
) -> None:
    """MNIST's files of 28×28 digits, centred in 32×32 as LeNet-5 saw them. Bring your own files."""
    from pipeline.data.prepare import prepare_mnist

    target = to or Path("data/mnist")
    with _progress("packing") as show:
        prepared = prepare_mnist(images, labels, test_images, test_labels, target, val_share, show)
    _say_prepared(prepared)


@prepare.command()
def folder(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="DIR/CLASS/*.jpg, or DIR/train/CLASS and DIR/val/CLASS."
        ),
    ],
    to: To = None,
    val_share: Annotated[
        float,
        typer.Option(help="Share of each class held out as val, where DIR has no val of its own."),
    ] = 0.1,
    on_bad: Annotated[
        str,
        typer.Option(
            metavar="stop|quarantine",
            help="An image that can't be read stops all, or is left out and listed in the index.",
        ),
    ] = "stop",
) -> None:
    """A folder of images, one folder a class. Pixels are kept as they are; EXIF turns nothing."""
    from pipeline.data.prepare import prepare_folder

    name = (to or source).absolute().name
    target = to or Path("data") / name
    with _progress("packing") as show:
        prepared = prepare_folder(source, target, name, val_share, on_bad, show)
    _say_prepared(prepared)


@prepare.command()
def ilsvrc2012(
    train: Annotated[Path, typer.Option(metavar="TAR", help="ILSVRC2012_img_train.tar.")],
    val: Annotated[Path, typer.Option(metavar="TAR", help="ILSVRC2012_img_val.tar.")],
    devkit: Annotated[Path, typer.Option(metavar="TGZ", help="ILSVRC2012_devkit_t12.tar.gz.")],
    test: Annotated[
        Path | None, typer.Option(metavar="TAR", help="ILSVRC2012_img_test_v10102019.tar.")
    ] = None,
    to: To = None,
    classes: Annotated[
        int | None, typer.Option(min=2, help="Only so many classes, the first by WNID.")
    ] = None,
    images_per_class: Annotated[
        int | None, typer.Option(min=1, help="Only so many images of each class and split.")
    ] = None,
    shorter_side: Annotated[
        int | None, typer.Option(min=32, help="Make larger images smaller; changes results.")
    ] = None,
    quality: Annotated[int, typer.Option(min=1, max=95, help="JPEG quality of those.")] = 95,
    checksum: Annotated[
        bool, typer.Option(help="Compare the archives with their official MD5 sums first.")
    ] = True,
    workers: Workers = None,
) -> None:
    """ILSVRC-2012 from its archives, or the folders they were extracted to. Goes on if stopped."""
    from pipeline.data.checking import Shrinking
    from pipeline.data.ilsvrc2012 import Sources, Subset
    from pipeline.data.prepare import prepare_ilsvrc2012

    with _transfer("packing") as show:
        prepared = prepare_ilsvrc2012(
            Sources(train.absolute(), val.absolute(), devkit.absolute(), test and test.absolute()),
            to or Path("data/ilsvrc2012"),
            subset=Subset(classes, images_per_class),
            shrinking=Shrinking(shorter_side, quality) if shorter_side else None,
            checksum=checksum,
            num_workers=_workers(workers),
            progress=show,
        )
    _say_prepared(prepared)


@prepare.command()
def webdataset(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="With SPLIT-000000.tar …")],
    to: To = None,
    workers: Workers = None,
) -> None:
    """WebDataset's shards, each image as KEY.jpg and its class's number as KEY.cls."""
    from pipeline.data.prepare import prepare_webdataset

    name = (to or source).absolute().name
    target = to or Path("data") / name
    with _transfer("packing") as show:
        prepared = prepare_webdataset(
            source.absolute(), target, name, num_workers=_workers(workers), progress=show
        )
    _say_prepared(prepared)


@export.command("folder")
def export_folder(source: StorePlace, to: ExportTo) -> None:
    """Images in SPLIT/CLASS/NAME.jpg, as torchvision's ImageFolder and ImageNet read them."""
    from pipeline.data.export import export_folder
    from pipeline.data.store import Store

    with _progress("writing") as show:
        export_folder(Store.open(as_folder(source)), to.absolute(), show)


@export.command("webdataset")
def export_webdataset(source: StorePlace, to: ExportTo) -> None:
    """The shards alone, for any WebDataset reader."""
    from pipeline.data.export import export_webdataset
    from pipeline.data.store import Store

    with _transfer("writing") as show:
        export_webdataset(Store.open(as_folder(source)), to.absolute(), show)


@app.command()
def doctor(
    folder: StorePlace,
    sample: Annotated[
        int, typer.Option(min=0, help="How many images of each split to decode.")
    ] = 1000,
    all_: Annotated[bool, typer.Option("--all", help="Decode every image.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="First pack damaged shards again from the archives.")
    ] = False,
) -> None:
    """Look at a data set's health: every byte, a sample of images. Exit code 1 if any is wrong."""
    from pipeline.data.doctor import examine
    from pipeline.data.repair import repair as mend
    from pipeline.data.store import Store
    from pipeline.reports.health import health_notes, health_table

    place, console = as_folder(folder), Console()
    if repair:
        with _transfer("repairing") as show:
            mended = mend(Path(str(place)), _workers(None), show)
        _say(console, f"repaired: {', '.join(mended) or 'nothing was damaged'}")
    store = Store.open(place)
    with _transfer("reading") as show:
        health = examine(store, None if all_ else sample, show)
    console.print(health_table(health))
    for note in health_notes(health):
        _say(console, note)
    if not health.is_well:
        raise typer.Exit(1)


@app.command()
def stage(
    source: StorePlace,
    to: Annotated[Path, typer.Option(metavar="DIR", help="A folder on this machine's own disk.")],
) -> None:
    """Copy a data set to this machine's own disk, checked; again: goes on where it stopped."""
    from pipeline.data.stage import stage

    with _transfer("copying") as show:
        store = stage(as_folder(source), to.absolute(), show)
    _say(Console(), f"{store.name} is in {store.folder}; train with --set cluster.stage_to={to}")


@app.command()
def check(recipe: RecipeName, on: ClusterName = "laptop", set_: Assignments = None) -> None:
    """Look at all that a training needs, before it costs anything."""
    from pipeline.launch.preflight import preflight

    job = _job(recipe, on, set_)
    table = Table(box=None, show_header=False, pad_edge=False)
    checks = list(preflight(*job))
    for found in checks:
        tick = "[green]✓[/]" if found.passed else "[red]✗[/]"
        table.add_row(tick, found.name, Text(found.message))
    Console().print(table)
    if not all(found.passed for found in checks):
        raise typer.Exit(1)


@app.command()
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
    start_from: Annotated[
        str | None,
        typer.Option(
            metavar="RUN|FILE",
            help="A trained run, or a file of weights, to start from. A deeper VGG takes what its "
            "paper takes from vgg_a.",
            show_default="the published random start",
        ),
    ] = None,
) -> None:
    """Train a network, or go on where the same training stopped."""
    from pipeline.launch.driver import conclude, run_training
    from pipeline.reports.comparison import comparison_markdown, comparison_tables
    from pipeline.tracking.queries import tracked_run

    what, where = _job(recipe, on, set_)
    console = Console()
    outcome = run_training(what, Path(recipe).stem, where, run, console, start_from)
    if outcome is None:
        _say(console, "this training is complete; `ilsvrc compare` shows its result")
        return
    uri = where.tracking.uri
    results = _measured([tracked_run(uri, outcome.record.tracking_run_id)])
    conclude(outcome, uri, comparison_markdown(results))
    console.print(comparison_tables(results)[0])
    if what.expect:
        _say(console, f"expected by the recipe: {_expectation(what.expect)}")
    _say(console, _how_to_look(uri))


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's name, or its folder.")],
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which split.", show_default="the recipe's")
    ] = None,
    on: ClusterName = "laptop",
    set_: Assignments = None,
) -> None:
    """Count the errors of a trained network over a whole split, every image once."""
    from pipeline.launch.driver import run_evaluation
    from pipeline.launch.run_folder import find_run

    if others := _of_recipe(set_):
        raise UserError(f"--set {others[0]}: a trained run keeps its recipe; set cluster.* only")
    cluster = load_cluster(on, _of_cluster(set_))
    found = find_run(cluster.runs_dir, run)
    run_evaluation(found, cluster, split, Console())


@app.command()
def compare(
    on: ClusterName = "laptop",
    experiment: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="An MLflow experiment.", show_default="the cluster's"),
    ] = None,
) -> None:
    """Put the runs of an experiment beside the published results of the same protocol."""
    from pipeline.reports.comparison import comparison_tables
    from pipeline.tracking.queries import evaluated_runs

    tracking = load_cluster(on).tracking
    console = Console()
    found = evaluated_runs(tracking.uri, experiment or tracking.experiment)
    for table in comparison_tables(_measured(found)):
        console.print(table)


@app.command()
def benchmark(
    recipe: RecipeName,
    on: ClusterName = "laptop",
    set_: Assignments = None,
    against: Annotated[
        str | None, typer.Option(metavar="torchvision", help="Measure this loader as well.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Rounds; each thing has a turn in each.")] = 5,
    images: Annotated[int, typer.Option(min=1, help="Pictures to make, and to use again.")] = 512,
    seconds: Annotated[float, typer.Option(help="How long a turn lasts, at least.")] = 5.0,
) -> None:
    """Measure images/s of loading, of training steps, and of both. Makes its own pictures."""
    from pipeline.benchmark.benchmark import run_benchmark
    from pipeline.benchmark.report import benchmark_notes, benchmark_table

    what, where = _job(recipe, on, set_)
    with _progress("measuring") as show:
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
        _say(console, note)


@app.command()
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
    from pipeline.models.description import describe_network, describe_zoo
    from pipeline.reports.description import description_tables

    if all_ == (name is not None):
        raise UserError("describe: give either the name of a network or --all")
    if all_ and (input_ is not None or classes is not None):
        raise UserError("describe --all: networks are as published; leave --input, --classes out")
    found = describe_zoo(batch) if name is None else describe_network(name, input_, classes, batch)
    if as_json:
        typer.echo(json.dumps(found.document(), indent=2))
        return
    console = _console_for_tables()
    for part in description_tables(found):
        console.print(part)


def main() -> None:
    """Run the command; what went wrong is one line on stderr, a user's mistake exit code 2."""
    try:
        app()
    except (UserError, WorkerFailedError, InterruptedByUserError) as error:
        console = Console(stderr=True)
        console.print("[red]ilsvrc:[/]", end=" ")
        _say(console, str(error))
        sys.exit(error.exit_code)


def _job(recipe: str, cluster: str, assignments: list[str] | None) -> tuple[Recipe, Cluster]:
    return load_recipe(recipe, _of_recipe(assignments)), load_cluster(
        cluster, _of_cluster(assignments)
    )


def _of_recipe(assignments: list[str] | None) -> list[str]:
    return [text for text in assignments or [] if not text.startswith("cluster.")]


def _of_cluster(assignments: list[str] | None) -> list[str]:
    prefix = "cluster."
    return [text.removeprefix(prefix) for text in assignments or [] if text.startswith(prefix)]


def _workers(asked: int | None) -> int:
    return len(os.sched_getaffinity(0)) if asked is None else asked


@contextmanager
def _progress(doing: str) -> Iterator[Callable[[int, int], None]]:
    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(doing, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _console_for_tables() -> Console:
    """As wide as the terminal; what goes to a file or a pipe is as wide as it needs to be."""
    console = Console()
    return console if console.is_terminal else Console(width=10_000)


@contextmanager
def _transfer(doing: str) -> Iterator[Callable[[int, int], None]]:
    """Show bytes, bytes/s and the time left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(doing, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _say_prepared(prepared: "Prepared") -> None:
    store = prepared.store
    images = ", ".join(f"{len(store.split(name)):,} {name}" for name in store.split_names)
    left_out = f", {prepared.num_quarantined:,} left out" if prepared.num_quarantined else ""
    subset = ", a subset of ILSVRC-2012" if "subset" in store.source.get("edition", "") else ""
    there = " (was there already)" if prepared.already_there else ""
    _say(
        Console(),
        f"{store.name}: {images} {store.contents}{left_out}{subset}, {len(store.classes):,} "
        f"classes in {store.folder}{there}",
    )


def _measured(found: list["TrackedRun"]) -> list["Measured"]:
    from pipeline.reports.comparison import measured_from_run

    return [
        result
        for run in found
        for result in measured_from_run(
            params=run.params,
            tags=run.tags,
            metrics=run.metrics,
            run_id=run.run_id,
            date=f"{run.started:%Y-%m-%d}",
            complete=run.status == "FINISHED",
        )
    ]


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


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)
