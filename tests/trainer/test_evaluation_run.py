"""Networks evaluated by protocol: a run's, on any workers, and those from elsewhere."""

import hashlib
import shutil
import sys
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import islice
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file
from torchvision import transforms

from pipeline.cli.app import main
from pipeline.config.cluster import Cluster, load_cluster
from pipeline.config.protocol import CenterCrop, Crops, TestProtocol, ten_crop
from pipeline.config.recipe import load_recipe
from pipeline.data.sources.digits import DIGIT_CLASSES, digits_samples
from pipeline.data.sources.prepare import prepare_folder
from pipeline.data.store.packing import write_store
from pipeline.data.store.store import Store, store_folder
from pipeline.evaluation.predictions import Predictions, find_predictions, read_predictions
from pipeline.models.zoo import NETWORKS
from pipeline.runs.evaluated_model import Preprocessing, external_model, model_of_run
from pipeline.runs.weights_source import (
    external_weights_source,
    prediction_metadata,
    weights_source_of_run,
)
from pipeline.runtime.errors import UserError
from pipeline.tracking.measured_runs import measured_from_runs
from pipeline.tracking.mlflow_client import connect
from pipeline.tracking.queries import evaluated_runs, named_runs
from pipeline.trainer.driver import TrainingResult, run_training
from pipeline.trainer.evaluation_run import run_evaluation
from pipeline.trainer.preprocessing_trials import run_sanity

QUIET = Console(quiet=True)
CROPS = Crops(resize=(36,), positions="corners-and-center")


@dataclass(frozen=True)
class Trained:
    outcome: TrainingResult
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
    outcome = run_training(load_recipe("smoke", ["epochs=1"]), "smoke", cluster, "mine", QUIET)
    assert outcome
    return Trained(outcome, cluster)


def evaluated(trained: Trained, protocol: TestProtocol, workers: int = 0) -> Predictions:
    folder, cluster = trained.outcome.folder, trained.cluster
    some = cluster.workers.model_copy(update={"count": workers})
    return run_evaluation(
        model_of_run(folder),
        weights_source_of_run(folder),
        store_folder(cluster, "digits"),
        "val",
        protocol,
        cluster.model_copy(update={"workers": some}),
        QUIET,
    )


def test_an_evaluation_is_a_child_run_with_its_predictions(
    trained: Trained, tracking_uri: str
) -> None:
    own = model_of_run(trained.outcome.folder).protocol
    assert evaluated(trained, own).counts == trained.outcome.counts
    crops = evaluated(trained, CROPS)
    for _ in range(2):  # the same again goes on with the same run
        evaluated(trained, CROPS)
    parent = trained.outcome.folder.tracking_run_id()
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
    assert child.metrics[f"eval/val/{name}/top1_hits"] == crops.counts.top1_hits
    (file,) = connect(tracking_uri).list_artifacts(child.run_id, "predictions")
    assert file.path == f"predictions/val.{name}.safetensors"
    kept = read_predictions(trained.outcome.folder.path / file.path)
    assert kept.digest == crops.digest
    assert kept.about.run == "mine"


def less_of_digits(folder: Path, name: str) -> Path:
    """Pack some of the handwritten digits in `folder`, under `name`."""
    samples = digits_samples(lambda done, total: None)
    some = {split: islice(found, 30) for split, found in samples.items()}
    write_store(folder, name=name, classes=DIGIT_CLASSES, splits=some, source={"kind": "some"})
    return folder


def test_other_data_leave_the_runs_own_predictions(
    trained: Trained, tracking_uri: str, tmp_path: Path
) -> None:
    folder, cluster = trained.outcome.folder, trained.cluster
    subject = model_of_run(folder)
    before = find_predictions(folder.path, "val", "whole")
    content = before.read_bytes()
    for name in ("other", "digits"):  # the last is named as the run's own, and holds others
        place = less_of_digits(tmp_path / name, name)
        found = run_evaluation(
            subject, weights_source_of_run(folder), place, "val", subject.protocol, cluster, QUIET
        )
        kept = find_predictions(folder.path, f"{name}.val", "whole")
        assert kept.name == f"{name}.val.whole.safetensors"
        assert read_predictions(kept).digest == found.digest
        assert find_predictions(folder.path, "val", "whole") == before
        assert before.read_bytes() == content
    measured = measured_from_runs(named_runs(evaluated_runs(tracking_uri, "evaluated"), ["mine"]))
    images = {result.key.split: result.counts.images for result in measured if result.counts}
    assert images == {"val": 899, "other.val": 30, "digits.val": 30}
    assert {result.key.training_data for result in measured} == {"digits"}


def test_what_a_folder_is_called_makes_no_data_foreign(
    data_dir: Path, trained: Trained, tmp_path: Path
) -> None:
    shutil.copytree(data_dir / "digits", tmp_path / "data" / "renamed")
    places = {"data_dir": str(tmp_path / "data"), "runs_dir": tmp_path / "runs"}
    cluster = trained.cluster.model_copy(update=places)
    recipe = load_recipe("smoke", ["epochs=1", "data.name=renamed"])
    outcome = run_training(recipe, "smoke", cluster, "of-renamed", QUIET)
    assert outcome
    subject, origin = model_of_run(outcome.folder), weights_source_of_run(outcome.folder)
    place = store_folder(cluster, origin.data)
    found = run_evaluation(subject, origin, place, "val", subject.protocol, cluster, QUIET)
    assert (found.about.training_data, found.about.data) == ("digits", "digits")
    assert found.about.seen_split == "val"
    # As recorded before the data set's own name was.
    old = replace(origin, training_data="renamed")
    again = run_evaluation(subject, old, place, "val", subject.protocol, cluster, QUIET)
    assert again.about == found.about
    tracked = evaluated_runs(cluster.tracking.uri, "evaluated")
    (measured,) = measured_from_runs(named_runs(tracked, ["of-renamed"]))
    assert (measured.key.training_data, measured.key.split) == ("digits", "val")
    other = Store.open(less_of_digits(tmp_path / "other", "other"))
    foreign = prediction_metadata(subject, origin, other, "val", subject.protocol)
    assert (foreign.training_data, foreign.seen_split) == ("digits", "other.val")


def test_two_ray_workers_predict_what_one_does(trained: Trained, ray_session: None) -> None:
    alone = evaluated(trained, CROPS)
    together = evaluated(trained, CROPS, workers=2)
    assert together.keys == alone.keys
    assert (together.ranks == alone.ranks).mean() > 0.995
    assert abs(together.counts.top1_hits - alone.counts.top1_hits) <= 1
    assert abs(together.probabilities - alone.probabilities).max() < 2e-3


def test_the_commands_score_what_is_kept(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(trained, CROPS)
    folder = trained.outcome.folder.path / "predictions"
    crops = folder / "val.ten-crop-36-32.safetensors"

    def told(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["ilsvrc", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
        return capsys.readouterr().out

    error = read_predictions(crops).counts.top1_error
    scored = told("predictions", str(crops), "--topk", "1,3", "--count", "2")
    for part in (f"{error:.2f}", "Taken for", "expected error"):
        assert part in scored
    beside = told("paired", str(crops), str(crops))
    assert "0 : 0" in beside


def test_an_evaluation_is_not_registered(
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
    told = capsys.readouterr().err
    assert told == f"ilsvrc: '{name}' is an evaluation of 'mine'; register that one\n"


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


def test_weights_from_elsewhere_are_evaluated(
    elsewhere: Path, trained: Trained, tmp_path: Path
) -> None:
    file = elsewhere / "own.safetensors"
    seen = Preprocessing(resize=72, crop=64)
    subject = external_model(str(file), "resnet18", None, seen)
    origin = external_weights_source(subject, tmp_path)
    place = elsewhere / "photos"
    found = run_evaluation(subject, origin, place, "val", ten_crop(72), trained.cluster, QUIET)
    assert found.about.network == "resnet18"
    assert found.about.run == f"resnet18-{found.about.weights_digest[:8]}"
    assert 0 <= found.counts.top1_hits <= len(found)
    kept = find_predictions(origin.folder.path, "val", None)
    assert kept.name.startswith("photos.val.ten-crop-72-")
    (run,) = named_runs(
        evaluated_runs(trained.cluster.tracking.uri, "evaluated"),
        [f"{found.about.run} val {found.about.protocol}"],
    )
    assert run.metrics[f"eval/val/{found.about.protocol}/images"] == len(found)


def test_torchvisions_weights_say_of_its_pictures_what_torchvision_says(
    elsewhere: Path, trained: Trained, tmp_path: Path
) -> None:
    """With torchvision's own transforms and network as the judge."""
    torch.manual_seed(1)
    judge = torchvision.models.resnet18(num_classes=2).eval()
    torch.save(judge.state_dict(), tmp_path / "resnet18.pth")
    subject = external_model(f"torchvision:{tmp_path / 'resnet18.pth'}", "resnet18", None, None)
    place, origin = elsewhere / "photos", external_weights_source(subject, tmp_path)
    found = run_evaluation(subject, origin, place, "val", subject.protocol, trained.cluster, QUIET)
    see = transforms.Compose(
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
        seen = torch.stack([see(Image.open(BytesIO(data))) for data in encoded])
        expected = judge(seen).softmax(1).numpy()
    assert expected.std(0).max() > 0.02  # the pictures differ
    assert abs(found.probabilities - expected).max() < 0.002


def test_a_declared_order_and_range_reach_the_network() -> None:
    seen = Preprocessing(
        mean=(100, 110, 120), std=(1, 2, 3), colors="bgr", value_range=255, resize=64, crop=64
    )
    assert seen.input.mean == (120, 110, 100)
    assert seen.input.std == (3, 2, 1)
    assert Preprocessing().input.mean == pytest.approx((123.675, 116.28, 103.53))
    assert isinstance(seen.protocol, CenterCrop)


MODULE = """
import torch
from torch import nn

class Red(nn.Module):
    # Class 1 is redder; what it says depends on the mean and the order of colours.
    def forward(self, images):
        blue, _, red = images.mean(dim=(2, 3)).T
        return torch.stack([blue - red, red - blue], dim=1)

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
def test_what_is_wrong_with_a_module_is_told_with_its_place(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    content, colors, told = BROKEN[name]
    (tmp_path / f"{name}.py").write_text(content)
    some = (0.5,) * (1 if colors == "gray" else 3)
    seen = Preprocessing(mean=some, std=some, colors=colors, resize=32, crop=32)  # type: ignore[arg-type]
    subject = external_model(None, None, f"{name}:Network", seen)
    with pytest.raises(UserError, match=told) as raised:
        subject.refuse_unfit(2)
    assert "\n" not in str(raised.value)
    if "line" in told:
        assert str(tmp_path / f"{name}.py") in str(raised.value)


def test_weights_of_any_type_have_a_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    content = "from torch import nn\ndef {}():\n    return nn.BatchNorm2d(2).to(dtype={})\n"
    names = ("float32", "bfloat16")
    (tmp_path / "of_types.py").write_text(
        "import torch\n" + "".join(content.format(name, f"torch.{name}") for name in names)
    )
    subjects = [external_model(None, None, f"of_types:{name}", None) for name in names]
    assert len({subject.weights_digest() for subject in subjects}) == 2
    layer = torch.nn.BatchNorm2d(2)
    expected = hashlib.sha256()
    for name, value in layer.state_dict().items():
        expected.update(name.encode() + value.numpy().tobytes())
    assert subjects[0].weights_digest() == expected.hexdigest()


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
    seen = Preprocessing(mean=(0.5,), std=(0.5,), colors="gray", resize=8, crop=8)
    subject = external_model(None, None, "counted:network", seen)
    trials = run_sanity(subject, data_dir / "digits", "val", trained.cluster, QUIET)
    assert {trial.counts.images for trial in trials} == {899}
    assert (tmp_path / "built").read_text() == "x"
    known = digits_samples(lambda done, total: None)["val"]
    secret = {"test": (replace(sample, label=-1) for sample in islice(known, 20))}
    place = tmp_path / "secret"
    write_store(place, name="secret", classes=DIGIT_CLASSES, splits=secret, source={"kind": "x"})
    with pytest.raises(UserError, match=r"test of secret has images of unknown class.*--split"):
        run_sanity(subject, place, "test", trained.cluster, QUIET)


def test_a_module_is_evaluated_and_a_wrong_declaration_noticed(
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

    def told(colors: str, *more: str, module: str = "Red") -> str:
        seen = f"{{mean: [0, 0, 0], std: [1, 1, 1], colors: {colors}, resize: 32, crop: 32}}"
        monkeypatch.setattr(
            sys, "argv",
            ["ilsvrc", "evaluate", "--module", f"seeing_red:{module}", "--data", "pictures",
             "--preprocessing", seen, "--set", "cluster.workers.count=0", *more],
        )  # fmt: skip
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
        return capsys.readouterr().out

    assert "top-1 error 0.00 %" in told("bgr")
    assert "top-1 error 100.00 %" in told("rgb")
    dense = ("--protocol", "dense-40-at-32")
    assert "top-1 error 0.00 %" in told("bgr", *dense, module="red_on_a_map")
    assert "no other preprocessing is clearly better" in told("bgr", "--sanity")
    assert "warning: 'colours swapped' is clearly better" in told("rgb", "--sanity")
