"""The commands that use a trained network: parse, call, show."""

import json
import sys
from collections.abc import Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.completion import complete_network, complete_run
from pipeline.cli.console import Console, say
from pipeline.cli.evaluation_commands import choose_model, choose_protocol, refuse_wrong_names
from pipeline.cli.options import (
    ClusterAssignments,
    ClusterName,
    load_cluster,
    load_only_cluster,
)
from pipeline.runtime.errors import UserError
from pipeline.runtime.storage import write_atomically

if TYPE_CHECKING:
    from pipeline.data.store.packing import Sample
    from pipeline.evaluation.guesses import Answer

_MOST_IN_PICTURE = 24


def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="RUN|[FORMAT:]FILE",
            help="A run's name, or its folder; or weights, as `evaluate` takes them.",
            autocompletion=complete_run,
        ),
    ],
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Files, folders, and - for standard input."),
    ],
    top: Annotated[int, typer.Option(min=1, help="How many classes.")] = 5,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="As `evaluate` has them: center, ten-crop, dense …",
            show_default="the recipe's",
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The network that the weights are of.",
            autocompletion=complete_network,
        ),
    ] = None,
    preprocessing: Annotated[
        str | None,
        typer.Option(
            metavar="YAML",
            help="What such a network sees, as for `evaluate`.",
            show_default="that of the weights, or torchvision's",
        ),
    ] = None,
    ema: Annotated[
        bool, typer.Option("--ema", help="Take the moving average of weights that also has others.")
    ] = False,
    classes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Names of the outputs: a line each, as 'n01440764 tench', or Keras' JSON.",
            show_default="the run's",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object an image, a line each.")
    ] = False,
    show: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw the images with their classes as a picture."),
    ] = None,
    on: ClusterName = "laptop",
    set_: ClusterAssignments = None,
) -> None:
    """Say what a network takes images for: classes by name, with their probabilities.

    The images are decoded and cropped as `evaluate` does. A file that isn't an image is named, the
    others are predicted, and the exit code is 1.
    """
    cluster = load_only_cluster(on, set_)
    if show and show.suffix.lower() != ".png":
        raise UserError(f"--show {show}: is written as PNG; name a file .png")
    is_file = Path(model).is_file() or (":" in model and not Path(model).is_dir())
    run, weights = (None, model) if is_file else (model, None)
    if weights and ":" not in model and not network:
        raise UserError(f"{model}: say with --network NAME which network these weights are of")
    refuse_wrong_names(cluster, run, weights, protocol)
    from pipeline.data.sources.loose_images import loose_images
    from pipeline.trainer.prediction_run import run_prediction

    chosen, folder = choose_model(cluster, run, weights, network, None, preprocessing, ema)
    chosen_protocol = choose_protocol(protocol, chosen)
    notes, output = Console(stderr=True), Console()
    for remark in chosen.remarks:
        say(notes, remark)
    num_bad = 0
    answered: list[tuple[Sample, Answer]] = []  # the first ones, for the picture

    def good_ones() -> "Iterator[Sample]":
        nonlocal num_bad
        for sample in loose_images(images, sys.stdin.buffer):
            if sample.status == "ok":
                yield sample
            else:
                num_bad += 1
                say(notes, f"{sample.key}: {sample.status}")

    def tell(sample: "Sample", answer: "Answer") -> None:
        if as_json:
            typer.echo(json.dumps({"file": sample.key, **answer.document()}))
        else:
            if not answered:
                name = f"{folder.name} ({answer.network})" if run else answer.network
                say(output, f"{name}, weights {answer.weights_digest[:8]}, by {answer.protocol}")
            say(output, _as_text(sample.key, answer))
        if len(answered) < _MOST_IN_PICTURE:
            answered.append((sample, answer))

    run_prediction(
        chosen, good_ones(), chosen_protocol, top, cluster, tell, partial(say, notes), classes
    )
    if show and answered:
        from pipeline.reports.figure_style import as_png
        from pipeline.reports.prediction_figure import prediction_figure

        record = folder.record() if run else None
        data = record.dataset_name if record else ""
        trained = f"trained on {data}" if data else f"weights of {Path(model).name}"
        figure = prediction_figure(answered, f"{trained}; {date.today()}")
        write_atomically(show.absolute(), as_png(figure))
    if num_bad:
        raise typer.Exit(1)
    if not answered:
        raise UserError(f"{', '.join(images)}: no images there")


def _as_text(name: str, answer: "Answer") -> str:
    lines = [
        f"  {100 * each.probability:6.2f} %  {f'{each.wnid} ' if each.wnid else ''}{each.name}"
        for each in answer.guesses
    ]
    return "\n".join((name, *lines))


def export_model(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A trained run's name, or its folder.", autocompletion=complete_run
        ),
    ],
    to: Annotated[
        str,
        typer.Option(metavar="onnx|torchscript|safetensors", help="The format."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where it goes.", show_default="RUN with its ending"),
    ] = None,
    on: ClusterName = "laptop",
) -> None:
    """Write a run's network as a file that other programs read.

    It maps normalized images, float32, any number at once, to logits. Class names, preprocessing,
    protocol, network, run and the digest of the weights are in the file's metadata.
    """
    from pipeline.runs.run_folder import find_run

    folder = find_run(load_cluster(on).runs_dir, run)
    from pipeline.runs.model_export import export_network

    path = export_network(folder, to, out)
    say(Console(), f"{path}, {path.stat().st_size / 1e6:.1f} MB")
