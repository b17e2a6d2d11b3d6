"""The commands that evaluate networks and score their predictions: parse, call, show."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.command_line import command_line
from pipeline.cli.completion import complete_network, complete_run
from pipeline.cli.console import Console, importing, say
from pipeline.cli.options import ClusterAssignments, ClusterName, load_cluster, load_only_cluster
from pipeline.runtime.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.config.cluster import Cluster, Folder
    from pipeline.config.protocol import TestProtocol
    from pipeline.config.recipe import InputConfig
    from pipeline.evaluation.predictions import Predictions
    from pipeline.pretrained.preprocessing import Preprocessing
    from pipeline.runs.evaluated_model import EvaluatedModel
    from pipeline.runs.run_folder import RunFolder

PredictionsName = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run, its folder, or a file of predictions.",
        autocompletion=complete_run,
    ),
]
SplitName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Which split; of other data than a run's own, as DATA.NAME.",
        show_default="the only one there",
    ),
]
ProtocolName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Which protocol.", show_default="the only one there, or the recipe's"
    ),
]


def evaluate(
    context: typer.Context,
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN", help="A run's name, or its folder.", autocompletion=complete_run
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="center, flip, ten-crop, ten-crop-square, dense, dense-3-scales, vgg-150, "
            "google-144, multi-scale, each with -logits to average logits; a whole name as "
            "ten-crop-256-224; or {kind: crops, resize: [256, 288], positions: 3, flip: true}.",
            show_default="the recipe's",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="STORE", help="A packed data set.", show_default="the run's"),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which split.", show_default="the recipe's")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="[FORMAT:]FILE", help="Weights from elsewhere, or a module's."),
    ] = None,
    ema: Annotated[
        bool,
        typer.Option("--ema", help="Take the moving average of --weights that also has others."),
    ] = False,
    network: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The network that --weights are of.",
            autocompletion=complete_network,
        ),
    ] = None,
    module: Annotated[
        str | None,
        typer.Option(metavar="PACKAGE.MODULE:CALLABLE", help="Returns any nn.Module."),
    ] = None,
    preprocessing: Annotated[
        str | None,
        typer.Option(
            metavar="YAML",
            help="What such a network sees: {mean: [...], std: [...], colors: rgb|bgr|gray, "
            "value_range: 1|255, resize: 256, crop: 224, squash: false, "
            "interpolation: bilinear|bicubic|lanczos}.",
            show_default="that of the weights, or torchvision's",
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="sorted-numbers|FILE",
            help="What classes called 0, 1, 2 … mean, and the outputs of weights from elsewhere: "
            "the k-th of the other side's names in sorted order, or the file's k-th line.",
            show_default="classes are matched by name",
        ),
    ] = None,
    restrict: Annotated[
        bool, typer.Option("--restrict", help="Guess among the data's classes alone.")
    ] = False,
    sanity: Annotated[
        bool, typer.Option("--sanity", help="Try other preprocessings, on some images.")
    ] = False,
    on: ClusterName = "laptop",
    set_: ClusterAssignments = None,
) -> None:
    """Count the errors of a network over a whole split by a test protocol, every image once.

    Its predictions for every image are kept with the run: `ilsvrc predictions`, `ensemble`,
    `paired` and `submission` read them.
    """
    cluster, console = load_only_cluster(on, set_), Console()
    refuse_wrong_names(cluster, run, weights, protocol)
    with importing(console):
        from pipeline.reports.prediction_tables import result_line, trials_table, trials_verdict
        from pipeline.trainer.evaluation_run import ClassOptions, run_evaluation
        from pipeline.trainer.preprocessing_trials import run_sanity

    model, folder = choose_model(cluster, run, weights, network, module, preprocessing, ema)
    place = _data(cluster, data, folder)
    split = split or _test_split(folder)
    for remark in model.remarks:
        say(console, remark)
    options = ClassOptions(classes, restrict)
    if sanity:
        trials = run_sanity(model, place, split, cluster, console, options)
        console.print(trials_table(trials))
        say(console, trials_verdict(trials))
        return
    chosen = choose_protocol(protocol, model)
    command = command_line(context.obj)
    predictions = run_evaluation(
        model, folder, place, split, chosen, cluster, console, command, options
    )
    if (predictions.labels < 0).any():
        say(console, f"{split} has unknown labels; `ilsvrc submission` writes the predictions")
    else:
        say(console, result_line(predictions))


def predictions(
    run: PredictionsName,
    split: SplitName = None,
    protocol: ProtocolName = None,
    topk: Annotated[str, typer.Option(metavar="K,K,…", help="Which k.")] = "1,5",
    count: Annotated[int, typer.Option(min=1, help="Classes and pairs to show.")] = 10,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Score by these labels, of which an image may have several: ReaL's JSON, Kaggle's "
            "CSV, or lines 'IMAGE LABEL'.",
        ),
    ] = None,
    on: ClusterName = "laptop",
) -> None:
    """Score kept predictions: any top-k, errors by class, confused pairs, calibration."""
    from pipeline.data.sources.label_files import read_label_file
    from pipeline.evaluation.relabelled import relabelled_errors
    from pipeline.reports.prediction_tables import (
        calibration_table,
        classes_table,
        confusions_table,
        errors_table,
        relabelled_table,
    )

    try:
        ks = [int(k) for k in topk.split(",")]
    except ValueError:
        ks = [0]
    if min(ks) < 1:
        raise UserError(f"--topk {topk}: write whole numbers from 1, as 1,5,10")
    found = _predictions(load_cluster(on), run, split, protocol)
    console = Console()
    if labels:
        console.print(relabelled_table(relabelled_errors(found, read_label_file(labels), ks)))
        return
    for table in (
        errors_table(found, ks),
        classes_table(found, count),
        confusions_table(found, count),
        calibration_table(found),
    ):
        console.print(table)


def ensemble(
    context: typer.Context,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN …", help="As `predictions` has.", autocompletion=complete_run
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(metavar="W,W,…", help="One a run.", show_default="equal"),
    ] = None,
    split: SplitName = None,
    protocol: ProtocolName = None,
    on: ClusterName = "laptop",
) -> None:
    """Average the predictions of several networks, and keep them as those of their ensemble."""
    try:
        shares = [float(share) for share in weights.split(",")] if weights else None
    except ValueError:
        raise UserError(f"--weights {weights}: write numbers, as 0.5,0.25,0.25") from None
    cluster = load_cluster(on)
    predictions = [_predictions(cluster, run, split, protocol) for run in runs]
    from pipeline.evaluation.ensemble import ensemble as average
    from pipeline.reports.prediction_tables import result_line
    from pipeline.trainer.job_evaluation import record_ensemble

    found = average(predictions, shares)
    file = record_ensemble(found, cluster, command_line(context.obj))
    if (found.labels >= 0).all():
        say(Console(), result_line(found))
    say(Console(), f"predictions of {found.metadata.ensemble_size} networks in {file}")


def paired(
    first: PredictionsName,
    second: PredictionsName,
    split: SplitName = None,
    protocol: ProtocolName = None,
    on: ClusterName = "laptop",
) -> None:
    """Say whether two networks differ by more than chance: McNemar's test, paired bootstrap."""
    from pipeline.evaluation.metrics import has_top5
    from pipeline.evaluation.significance import compare_paired
    from pipeline.reports.prediction_tables import paired_table

    cluster = load_cluster(on)
    one, other = (_predictions(cluster, run, split, protocol) for run in (first, second))
    names = (
        f"{one.metadata.run} {one.metadata.protocol}",
        f"{other.metadata.run} {other.metadata.protocol}",
    )
    ks = (1, 5) if has_top5(len(one.classes)) else (1,)
    Console().print(paired_table(names, [compare_paired(one, other, k) for k in ks]))


def submission(
    run: PredictionsName,
    split: Annotated[str, typer.Option(metavar="NAME", help="Which split.")] = "test",
    protocol: ProtocolName = None,
    to: Annotated[Path, typer.Option(metavar="FILE", help="Where it goes.")] = Path(
        "submission.txt"
    ),
    on: ClusterName = "laptop",
) -> None:
    """Write kept predictions as ILSVRC's server takes them: five ILSVRC2012_IDs an image."""
    from pipeline.evaluation.ilsvrc_submission import submission as lines
    from pipeline.runtime.storage import write_atomically

    found = _predictions(load_cluster(on), run, split, protocol)
    write_atomically(to.absolute(), lines(found).encode())
    say(Console(), f"{len(found):,} images of {split} in {to}")


def score(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Guesses, a line an image.")],
    ground_truth: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="ILSVRC2012_IDs, a line an image; or ReaL's JSON, Kaggle's CSV, Caffe's list.",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="STORE", help="A packed ilsvrc2012, whose classes such other labels name."
        ),
    ] = None,
) -> None:
    """Score a file of guesses exactly as ILSVRC's devkit does, for 1 to 5 guesses."""
    from pipeline.evaluation.ilsvrc_submission import flat_errors, read_lists

    numbers = range(1, 6)
    guesses = read_lists(file)
    if _labels_by_name(ground_truth):
        guesses, truth = _guesses_and_truth(guesses, ground_truth, data)
    else:
        truth = read_lists(ground_truth)
    errors = flat_errors(guesses, truth, numbers)
    for number, error in zip(numbers, errors, strict=True):
        say(Console(), f"{number} guess{'es' * (number > 1)}: flat error {error:.6f}")


def _labels_by_name(file: Path) -> bool:
    """Whether a file's lines are not numbers alone: it names images, or is JSON."""
    from pipeline.data.sources.label_files import read_text

    return any(character.isalpha() or character in "[{" for character in read_text(file))


def _guesses_and_truth(
    guesses: "NDArray[np.int64]", file: Path, data: str | None
) -> "tuple[NDArray[np.int64], NDArray[np.int64]]":
    """Return the rows of the images that `file` labels, and their ILSVRC2012_IDs."""
    from pipeline.config.cluster import as_folder
    from pipeline.data.sources.label_files import read_label_file
    from pipeline.data.store.manifest import read_manifest
    from pipeline.evaluation.relabelled import ground_truth

    labels = read_label_file(file)
    if data is None:
        raise UserError(
            f"{file}: labels classes by name or rank, guesses are ILSVRC2012_IDs; say with --data "
            "which packed ilsvrc2012 has both"
        )
    if len(guesses) != len(labels):
        raise UserError(
            f"{len(guesses):,} lines of guesses and {len(labels):,} labelled images in {file}; "
            "there must be as many"
        )
    truth = ground_truth(labels, read_manifest(as_folder(data)).classes)
    return guesses[list(truth.rows)], truth.ids


def refuse_wrong_names(
    cluster: "Cluster", run: str | None, weights: str | None, protocol: str | None
) -> None:
    """Raise `UserError` for a run, a file or a protocol that isn't there, without importing torch.

    The protocol of weights from elsewhere is known only when they are read.
    """
    from pipeline.pretrained.weights_name import find_weights
    from pipeline.runs.run_folder import find_run

    if weights:
        find_weights(weights)
    if run:
        recipe = find_run(cluster.runs_dir, run).recipe()
        if protocol:
            sides = recipe.augmentation.trained_sides
            _parse_protocol(protocol, recipe.input, recipe.evaluation, sides)


def choose_model(
    cluster: "Cluster",
    run: str | None,
    weights: str | None,
    network: str | None,
    module: str | None,
    preprocessing: str | None,
    ema: bool,
) -> tuple["EvaluatedModel", "RunFolder"]:
    """Return the network of a run, or the external one that the other options name."""
    from pipeline.runs.evaluated_model import external_model, model_of_run
    from pipeline.runs.run_folder import find_run

    if run is None:
        model = external_model(weights, network, module, _preprocessing(preprocessing), ema=ema)
        return model, model.external_folder(cluster.runs_dir)
    for option, value in (
        ("--weights", weights),
        ("--network", network),
        ("--module", module),
        ("--preprocessing", preprocessing),
        ("--ema", ema),
    ):
        if value:
            raise UserError(f"{option}: run '{run}' has its own; leave out one of them")
    folder = find_run(cluster.runs_dir, run)
    return model_of_run(folder), folder


def _preprocessing(text: str | None) -> "Preprocessing | None":
    from pipeline.config.yaml import read_mapping, validate
    from pipeline.pretrained.preprocessing import Preprocessing

    if text is None:
        return None
    return validate(Preprocessing, read_mapping(text, "--preprocessing"), "--preprocessing")


def _data(cluster: "Cluster", data: str | None, folder: "RunFolder") -> "Folder":
    """Return the packed data set: a path or URL, a name in the cluster's, or the run's own."""
    from pipeline.config.cluster import as_folder
    from pipeline.data.store.manifest import FILE_NAME
    from pipeline.data.store.store import store_folder

    if data and ("/" in data or (Path(data) / FILE_NAME).is_file()):
        return as_folder(data)
    if data is None and folder.record() is None:
        raise UserError("--data STORE is needed: a packed data set for weights from elsewhere")
    return store_folder(cluster, data or folder.recipe().data.name)


def _test_split(folder: "RunFolder") -> str:
    return folder.recipe().data.test_split if folder.record() else "val"


def choose_protocol(name: str | None, model: "EvaluatedModel") -> "TestProtocol":
    """Return the protocol of that name, or the network's own."""
    if name is None:
        return model.protocol
    return _parse_protocol(name, model.input, model.protocol, model.trained_sides)


def _parse_protocol(
    name: str, input: "InputConfig", tested: "TestProtocol", sides: tuple[int, int] | None
) -> "TestProtocol":
    from pipeline.config.protocol import parse_protocol

    if input.dimensions == 1:
        raise UserError(f"--protocol {name}: signals are seen as they are; leave it out")
    return parse_protocol(name, input.size, tested, sides)


def _predictions(
    cluster: "Cluster", run: str, split: str | None, protocol: str | None
) -> "Predictions":
    """Read the predictions of `run` that the options name, or the only ones that it has.

    Where several are kept and no protocol is named, they are those by the recipe's, which is said.
    """
    from pipeline.evaluation.predictions import (
        find_predictions,
        predictions_file,
        read_predictions,
    )
    from pipeline.runs.run_folder import RunFolder

    if run.endswith(".safetensors"):
        return read_predictions(Path(run).absolute())
    place = cluster.runs_dir / run
    folder = RunFolder(place if place.is_dir() else Path(run).absolute())
    preferred = None
    if folder.recipe_file.is_file():
        recipe = folder.recipe()
        by_recipe = recipe.evaluation.name(recipe.input.size)
        preferred = predictions_file(folder.path, recipe.data.test_split, by_recipe)
    found = read_predictions(find_predictions(folder.path, split, protocol, preferred))
    about = found.metadata
    if protocol is None:
        say(Console(stderr=True), f"{about.run}: {about.qualified_split} by {about.protocol}")
    return found
