"""Evaluation by protocol: of a run's network, on any number of workers, and of external ones."""

import hashlib
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO, StringIO
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file
from torchvision import transforms

from pipeline.cli.app import main
from pipeline.config.cluster import Cluster, load_cluster
from pipeline.config.protocol import CenterCrop, Crops, TestProtocol, ten_crop
from pipeline.config.recipe import load_recipe
from pipeline.data.sources.digits import DIGIT_CLASSES, digits_samples
from pipeline.data.sources.prepare import prepare_folder
from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.packing import write_store
from pipeline.data.store.store import Store, store_folder
from pipeline.evaluation.predictions import Predictions, find_predictions, read_predictions
from pipeline.models.zoo import NETWORKS
from pipeline.pretrained.preprocessing import Preprocessing
from pipeline.runs.evaluated_model import external_model, model_of_run
from pipeline.runtime.errors import UserError
from pipeline.tracking.measured_runs import measured_from_runs
from pipeline.tracking.mlflow_client import connect
from pipeline.tracking.queries import evaluated_runs, named_runs
from pipeline.trainer.driver import TrainingResult, run_training
from pipeline.trainer.evaluation_run import ClassOptions, run_evaluation
from pipeline.trainer.preprocessing_trials import run_sanity

QUIET = Console(quiet=True)
CROPS = Crops(resize=(36,), positions="corners-and-center")


@dataclass(frozen=True)
class Trained:
    result: TrainingResult
    cluster: Cluster


@pytest.fixture(scope="module")
def trained(data_dir: Path, tracking_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("evaluated")
    cluster = load_cluster(
        "laptop",
        [
            f"data_dir={data_dir}",
            f"runs_dir={folder}",
            "workers.count=0",
            f"tracking={{uri: '{tracking_uri}', experiment: evaluated}}",
        ],
    )
    result = run_training(load_recipe("smoke", ["epochs=1"]), "smoke", cluster, "mine", QUIET)
    assert result
    return Trained(result, cluster)


def evaluated(trained: Trained, protocol: TestProtocol, workers: int = 0) -> Predictions:
    folder, cluster = trained.result.folder, trained.cluster
    some = cluster.workers.model_copy(update={"count": workers})
    return run_evaluation(
        model_of_run(folder),
        folder,
        store_folder(cluster, "digits"),
        "val",
        protocol,
        cluster.model_copy(update={"workers": some}),
        QUIET,
    )


def test_an_evaluation_is_a_child_run_with_its_predictions(
    trained: Trained, tracking_uri: str
) -> None:
    own = model_of_run(trained.result.folder).protocol
    assert evaluated(trained, own).counts == trained.result.counts
    crops = evaluated(trained, CROPS)
    for _ in range(2):  # the same again goes on with the same run
        evaluated(trained, CROPS)
    parent = trained.result.folder.tracking_run_id()
    children = {
        run.tags["protocol"]: run
        for run in evaluated_runs(tracking_uri, "evaluated")
        if run.tags.get("mlflow.parentRunId") == parent
    }
    assert len(children) == 2
    assert len(evaluated_runs(tracking_uri, "evaluated")) == 3
    name = "ten-crop-36-32"
    child = children[name]
    assert child.status == "FINISHED"
    assert child.params["recipe.network.name"] == "lenet5_modern"
    assert child.metrics[f"eval/val/{name}/top1_error"] == crops.counts.top1_error
    (file,) = connect(tracking_uri).list_artifacts(child.run_id, "predictions")
    assert file.path == f"predictions/val.{name}.safetensors"
    kept = read_predictions(trained.result.folder.path / file.path)
    assert kept.digest == crops.digest
    assert kept.metadata.run == "mine"


def less_of_digits(folder: Path, name: str) -> Path:
    """Pack some of the handwritten digits in `folder`, under `name`."""
    samples = digits_samples(lambda done, total: None)
    some = {split: islice(found, 30) for split, found in samples.items()}
    write_store(folder, name=name, classes=DIGIT_CLASSES, splits=some, source={"kind": "some"})
    return folder


def test_predictions_of_other_data_have_files_of_their_own(
    trained: Trained, tracking_uri: str, tmp_path: Path
) -> None:
    folder, cluster = trained.result.folder, trained.cluster
    model = model_of_run(folder)
    before = find_predictions(folder.path, "val", "whole")
    content = before.read_bytes()
    for name in ("other", "digits"):  # the last is named as the run's own, and holds others
        place = less_of_digits(tmp_path / name, name)
        found = run_evaluation(model, folder, place, "val", model.protocol, cluster, QUIET)
        kept = find_predictions(folder.path, f"{name}.val", "whole")
        assert kept.name == f"{name}.val.whole.safetensors"
        assert read_predictions(kept).digest == found.digest
        assert find_predictions(folder.path, "val", "whole") == before
        assert before.read_bytes() == content
    measured = measured_from_runs(named_runs(evaluated_runs(tracking_uri, "evaluated"), ["mine"]))
    images = {result.key.split: result.counts.images for result in measured if result.counts}
    assert images == {"val": 899, "other.val": 30, "digits.val": 30}
    assert {result.key.training_data for result in measured} == {"digits"}


def of_digits(folder: Path, names: Sequence[str]) -> Path:
    """Pack the val digits of the classes `names` (0 … 9, or n0 … n9), numbered in that order."""
    numbers = [int(name.removeprefix("n")) for name in names]
    classes = [ImageClass(index, name) for index, name in enumerate(names)]
    samples = [
        replace(sample, label=numbers.index(sample.label))
        for sample in digits_samples(lambda done, total: None)["val"]
        if sample.label in numbers
    ]
    write_store(folder, name=folder.name, classes=classes, splits={"val": samples}, source={})
    return folder


def test_labels_are_mapped_by_the_names_of_classes(trained: Trained, tmp_path: Path) -> None:
    folder, cluster = trained.result.folder, trained.cluster
    model, own = model_of_run(folder), evaluated(trained, model_of_run(folder).protocol)
    assert [each.name for each in model.classes] == [str(digit) for digit in range(10)]

    def found(names: Sequence[str], *options: ClassOptions) -> Predictions:
        place = of_digits(tmp_path / f"of-{'-'.join(names)}-{len(options)}", names)
        return run_evaluation(
            model, folder, place, "val", model.protocol, cluster, QUIET, None, *options
        )

    turned = found([str(digit) for digit in range(9, -1, -1)])
    assert turned.counts == own.counts
    assert np.allclose(turned.probabilities, own.probabilities[:, ::-1], atol=1e-3)
    named = [f"n{digit}" for digit in range(10)]
    with pytest.raises(UserError, match=r"no class for 'n0'.* 0, 1, 2 … 9; .* n0, n1, n2 … n9"):
        found(named)
    assert found(named, ClassOptions("sorted-numbers")).counts == own.counts
    some = ["7", "3", "8"]
    among_all, among_some = found(some), found(some, ClassOptions(restrict=True))
    rows = np.isin(own.labels, [7, 3, 8])
    assert among_all.counts.top1_hits == int((own.are_hits(1) & rows).sum())
    assert [each.name for each in among_all.classes[:3]] == some
    assert among_some.metadata.protocol == f"{among_all.metadata.protocol}-among-3"
    assert among_some.probabilities.shape == (int(rows.sum()), 3)
    assert among_some.counts.top1_hits > among_all.counts.top1_hits
    record = folder.record()
    assert record
    folder.write_record(replace(record, classes=()))  # as before classes were recorded
    try:
        earlier = model_of_run(folder)
        place = of_digits(tmp_path / "by-count", named)
        said = Console(record=True, width=200, file=StringIO())
        run_evaluation(earlier, folder, place, "val", earlier.protocol, cluster, said)
        assert "classes the network was trained on is not recorded" in said.export_text()
    finally:
        folder.write_record(record)


def test_a_renamed_folder_holds_the_same_data(
    data_dir: Path, trained: Trained, tmp_path: Path
) -> None:
    shutil.copytree(data_dir / "digits", tmp_path / "data" / "renamed")
    places = {"data_dir": str(tmp_path / "data"), "runs_dir": tmp_path / "runs"}
    cluster = trained.cluster.model_copy(update=places)
    recipe = load_recipe("smoke", ["epochs=1", "data.name=renamed"])
    result = run_training(recipe, "smoke", cluster, "of-renamed", QUIET)
    assert result
    folder, record = result.folder, result.folder.record()
    assert record
    model, place = model_of_run(folder), store_folder(cluster, "renamed")
    found = run_evaluation(model, folder, place, "val", model.protocol, cluster, QUIET)
    assert (found.metadata.training_data, found.metadata.data) == ("digits", "digits")
    assert found.metadata.qualified_split == "val"
    # As recorded before the data set's own name was.
    folder.write_record(replace(record, dataset_name=""))
    again = run_evaluation(model, folder, place, "val", model.protocol, cluster, QUIET)
    assert again.metadata == found.metadata
    tracked = evaluated_runs(cluster.tracking.uri, "evaluated")
    (measured,) = measured_from_runs(named_runs(tracked, ["of-renamed"]))
    assert (measured.key.training_data, measured.key.split) == ("digits", "val")
    other = Store.open(less_of_digits(tmp_path / "other", "other"))
    folder.write_record(record)
    foreign = model.prediction_metadata(folder, other, "val", model.protocol)
    assert (foreign.training_data, foreign.qualified_split) == ("digits", "other.val")


def test_two_ray_workers_predict_the_same_as_one(trained: Trained, ray_session: None) -> None:
    alone = evaluated(trained, CROPS)
    together = evaluated(trained, CROPS, workers=2)
    assert together.keys == alone.keys
    assert (together.ranks == alone.ranks).mean() > 0.995
    assert abs(together.counts.top1_hits - alone.counts.top1_hits) <= 1
    assert abs(together.probabilities - alone.probabilities).max() < 2e-3


def test_commands_score_stored_predictions(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(trained, CROPS)
    folder = trained.result.folder.path / "predictions"
    crops = folder / "val.ten-crop-36-32.safetensors"

    def output(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["ilsvrc", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
        return capsys.readouterr().out

    error = read_predictions(crops).counts.top1_error
    scored = output("predictions", str(crops), "--topk", "1,3", "--count", "2")
    for part in (f"{error:.2f}", "Taken for", "expected error"):
        assert part in scored
    compared = output("paired", str(crops), str(crops))
    assert "0 : 0" in compared


def test_an_evaluation_can_not_be_registered(
    trained: Trained,
    tracking_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    evaluated(trained, CROPS)
    name = "mine val ten-crop-36-32"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    monkeypatch.setattr(sys, "argv", ["ilsvrc", "register", name, "--experiment", "evaluated"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error == f"ilsvrc: '{name}' is an evaluation of 'mine'; register that one\n"


def packed(source: Path, to: Path) -> None:
    prepare_folder(
        source, to, to.name, val_share=0.3, on_bad="stop", num_workers=0,
        progress=lambda done, total: None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def elsewhere(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packed photographs of two classes, and weights of a network for them, by two names."""
    folder = tmp_path_factory.mktemp("elsewhere")
    packed(photo_folder, folder / "photos")
    torch.manual_seed(0)
    save_file(NETWORKS["resnet18"](num_classes=2).state_dict(), folder / "own.safetensors")
    return folder


def test_external_weights_are_evaluated(elsewhere: Path, trained: Trained, tmp_path: Path) -> None:
    file = elsewhere / "own.safetensors"
    preprocessing = Preprocessing(resize=72, crop=64)
    model = external_model(str(file), "resnet18", None, preprocessing)
    folder = model.external_folder(tmp_path)
    place = elsewhere / "photos"
    found = run_evaluation(model, folder, place, "val", ten_crop(72), trained.cluster, QUIET)
    assert found.metadata.network == "resnet18"
    assert found.metadata.run == f"resnet18-{found.metadata.weights_digest[:8]}"
    assert 0 <= found.counts.top1_hits <= len(found)
    kept = find_predictions(folder.path, "val", None)
    assert kept.name.startswith("photos.val.ten-crop-72-")
    (run,) = named_runs(
        evaluated_runs(trained.cluster.tracking.uri, "evaluated"),
        [f"{found.metadata.run} val {found.metadata.protocol}"],
    )
    assert run.tags[f"eval/val/{found.metadata.protocol}/images"] == str(len(found))


def test_torchvision_weights_predict_the_same_as_torchvision(
    elsewhere: Path, trained: Trained, tmp_path: Path
) -> None:
    """Against torchvision's own transforms and network."""
    torch.manual_seed(1)
    expected_model = torchvision.models.resnet18(num_classes=2).eval()
    torch.save(expected_model.state_dict(), tmp_path / "resnet18.pth")
    model = external_model(f"torchvision:{tmp_path / 'resnet18.pth'}", "resnet18", None, None)
    place, folder = elsewhere / "photos", model.external_folder(tmp_path)
    found = run_evaluation(model, folder, place, "val", model.protocol, trained.cluster, QUIET)
    transform = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    images = Store.open(place).split("val")
    encoded = (images.encoded(i).tobytes() for i in range(len(images)))
    with torch.inference_mode():
        inputs = torch.stack([transform(Image.open(BytesIO(data))) for data in encoded])
        expected = expected_model(inputs).softmax(1).numpy()
    assert expected.std(0).max() > 0.02  # the pictures differ
    assert abs(found.probabilities - expected).max() < 0.002


def test_a_training_scripts_checkpoint_is_evaluated_and_what_was_chosen_said(
    elsewhere: Path,
    tmp_path: Path,
    tracking_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its path has a colon, and its network isn't named."""
    torch.manual_seed(0)
    state = torchvision.models.resnet18(num_classes=2).state_dict()
    wrapped = {f"module.{key}": value for key, value in state.items()}
    folder = tmp_path / "run 12:30"
    folder.mkdir()
    torch.save(
        {"model": state, "model_ema": {"n_averaged": torch.tensor(2), **wrapped}, "epoch": 3},
        folder / "checkpoint.pth",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    monkeypatch.setattr(
        sys, "argv",
        ["ilsvrc", "evaluate", "--weights", f"torchvision:{folder / 'checkpoint.pth'}", "--ema",
         "--data", str(elsewhere / "photos"), "--set", "cluster.workers.count=0"],
    )  # fmt: skip
    with pytest.raises(SystemExit) as end:
        main()
    said = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0, said
    assert "model_ema is taken (the moving average), not model" in said
    assert "its layers are those of resnet18" in said
    assert "val (center-256-224" in said


def test_own_weights_are_taken_out_of_what_they_were_saved_in(
    elsewhere: Path, tmp_path: Path
) -> None:
    own = load_file(elsewhere / "own.safetensors")
    file = tmp_path / "12:30.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in own.items()}}, file)
    found = external_model(str(file), "resnet18", None, None).build(2).state_dict()
    assert all(torch.equal(found[key], value) for key, value in own.items())
    halves = {key: value.half() for key, value in own.items() if value.is_floating_point()}
    torch.save(halves, file)
    assert external_model(str(file), "resnet18", None, None).remarks == (
        "12:30.pth holds float16; made float32",
    )
    with pytest.raises(UserError, match="caffe9 is no format"):
        external_model(f"caffe9:{file}", "resnet18", None, None)
    with pytest.raises(UserError, match=r"--weights none:\S+: no such file"):
        external_model("none:12:30.pth", "resnet18", None, None)


def test_a_module_within_another_takes_weights_without_its_name(tmp_path: Path) -> None:
    (tmp_path / "wrapping.py").write_text(
        "from torch import nn\n"
        "class Network(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))\n"
        "    def forward(self, images):\n"
        "        return self.model(images)\n"
    )
    weight = {"model.1.weight": torch.ones(2, 12), "model.1.bias": torch.zeros(2)}
    torch.save({"state_dict": weight}, tmp_path / "of.pth")
    model = external_model(str(tmp_path / "of.pth"), None, "wrapping:Network", None)
    built = replace(model, module_folder=tmp_path).build(2).state_dict()
    assert torch.equal(built["model.1.weight"], weight["model.1.weight"])


def test_the_declared_order_and_range_of_colours_are_applied() -> None:
    preprocessing = Preprocessing(
        mean=(100, 110, 120), std=(1, 2, 3), colors="bgr", value_range=255, resize=64, crop=64
    )
    assert preprocessing.input.mean == (120, 110, 100)
    assert preprocessing.input.std == (3, 2, 1)
    assert Preprocessing().input.mean == pytest.approx((123.675, 116.28, 103.53))
    assert isinstance(preprocessing.protocol, CenterCrop)


MODULE = """
import torch
from torch import nn

class Red(nn.Module):
    # Class 1 is redder; what it says depends on the mean and the order of colours.
    def forward(self, images):
        blue, _, red = images.mean(dim=(2, 3)).T
        return torch.stack([blue - red, red - blue], dim=1)

class RedderThanTheMean(nn.Module):
    def forward(self, images):
        red = images[:, 0].mean(dim=(1, 2))
        return torch.stack([-red, red], dim=1)

def red_on_a_map():
    see, say = nn.Conv2d(3, 2, 1), nn.Linear(2, 2)
    with torch.no_grad():
        see.weight.copy_(torch.tensor([[1.0, 0, -1], [-1, 0, 1]])[:, :, None, None])
        say.weight.copy_(torch.eye(2))
        for layer in (see, say):
            layer.bias.zero_()
    return nn.Sequential(see, nn.AdaptiveAvgPool2d(1), nn.Flatten(), say)
"""


OF_COLOURS = """
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 32)

    def forward(self, images):
        return self.layer(images).flatten(1),
"""
BROKEN = {
    "raising": ("def Network():\n    return 1 / 0\n", "rgb", "ZeroDivisionError: .*, line 2"),
    "misspelt": ("from torch import nn\nclass Network(nn.Module)\n", "rgb",
                 r"--module misspelt:Network: SyntaxError: .+ \(.*, line 2"),
    "undefined": ("Network = net", "rgb", "NameError: .*'net'.*, line 1"),
    "colourful": (OF_COLOURS, "gray",
                  "colourful.Network can't see a picture of 1×32×32: RuntimeError: .+, line 10"
                  r"\); declare what it takes with --preprocessing"),
    "in_a_tuple": (OF_COLOURS, "rgb",
                   "in_a_tuple.Network returns a tuple; have it return a tensor of scores"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_an_error_in_a_module_is_reported_with_its_place(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    content, colors, message = BROKEN[name]
    (tmp_path / f"{name}.py").write_text(content)
    some = (0.5,) * (1 if colors == "gray" else 3)
    preprocessing = Preprocessing(mean=some, std=some, colors=colors, resize=32, crop=32)  # type: ignore[arg-type]
    model = external_model(None, None, f"{name}:Network", preprocessing)
    with pytest.raises(UserError, match=message) as raised:
        model.num_outputs(lambda: model.build(2))
    assert "\n" not in str(raised.value)
    if "line" in message:
        assert str(tmp_path / f"{name}.py") in str(raised.value)


def test_weights_of_any_dtype_have_a_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    content = "from torch import nn\ndef {}():\n    return nn.BatchNorm2d(2).to(dtype={})\n"
    names = ("float32", "bfloat16")
    (tmp_path / "of_types.py").write_text(
        "import torch\n" + "".join(content.format(name, f"torch.{name}") for name in names)
    )
    models = [external_model(None, None, f"of_types:{name}", None) for name in names]
    assert len({model.weights_digest() for model in models}) == 2
    layer = torch.nn.BatchNorm2d(2)
    expected = hashlib.sha256()
    for name, value in layer.state_dict().items():
        expected.update(name.encode() + value.numpy().tobytes())
    assert models[0].weights_digest() == expected.hexdigest()


COUNTED = """
from pathlib import Path
from torch import nn

def network():
    with Path("built").open("a") as file:
        file.write("x")
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


def test_sanity_builds_a_module_once_and_refuses_unknown_labels(
    trained: Trained, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "counted.py").write_text(COUNTED)
    preprocessing = Preprocessing(mean=(0.5,), std=(0.5,), colors="gray", resize=8, crop=8)
    model = external_model(None, None, "counted:network", preprocessing)
    trials = run_sanity(model, data_dir / "digits", "val", trained.cluster, QUIET)
    assert {trial.counts.images for trial in trials} == {899}
    assert (tmp_path / "built").read_text() == "x"
    known = digits_samples(lambda done, total: None)["val"]
    secret = {"test": (replace(sample, label=-1) for sample in islice(known, 20))}
    place = tmp_path / "secret"
    write_store(place, name="secret", classes=DIGIT_CLASSES, splits=secret, source={"kind": "x"})
    with pytest.raises(UserError, match=r"test of secret has images of unknown class.*--split"):
        run_sanity(model, place, "test", trained.cluster, QUIET)


def test_a_module_is_evaluated_and_a_wrong_declaration_detected(
    trained: Trained,
    tmp_path: Path,
    tracking_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Red and blue squares: with its colours swapped, the network takes each for the other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "seeing_red.py").write_text(MODULE)
    for name, color in (("blue", (40, 90, 160)), ("red", (160, 90, 40))):
        (tmp_path / "pictures" / "val" / name).mkdir(parents=True)
        (tmp_path / "pictures" / "train" / name).mkdir(parents=True)
        for number in range(12):
            picture = Image.new("RGB", (40 + number, 40), color)
            for part in ("train", "val"):
                picture.save(tmp_path / "pictures" / part / name / f"{number}.jpg")
    packed(tmp_path / "pictures", tmp_path / "data" / "pictures")

    def output(colors: str, *more: str, module: str = "Red") -> str:
        preprocessing = (
            f"{{mean: [0, 0, 0], std: [1, 1, 1], colors: {colors}, resize: 32, crop: 32}}"
        )
        monkeypatch.setattr(
            sys, "argv",
            ["ilsvrc", "evaluate", "--module", f"seeing_red:{module}", "--data", "pictures",
             "--preprocessing", preprocessing, "--set", "cluster.workers.count=0", *more],
        )  # fmt: skip
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
        return capsys.readouterr().out

    assert "top-1 error 0.00 %" in output("bgr")
    assert "top-1 error 100.00 %" in output("rgb")
    dense = ("--protocol", "dense-40-at-32")
    assert "top-1 error 0.00 %" in output("bgr", *dense, module="red_on_a_map")
    assert "no other preprocessing is clearly better" in output("bgr", "--sanity")
    assert "warning: 'colours swapped' is clearly better" in output("rgb", "--sanity")
    forgotten = output("rgb", "--sanity", module="RedderThanTheMean")
    assert "warning: 'ImageNet's mean' is clearly better" in forgotten
    assert all(f" {kind}" in forgotten for kind in ("bicubic", "lanczos"))
