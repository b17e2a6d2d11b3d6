"""A network asked about single images: as `evaluate` sees them, whatever they are."""

import io
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_images
from trained_runs import CLASSES, small_recipe, trained_run

from pipeline.cli.app import main
from pipeline.config.cluster import Cluster, load_cluster
from pipeline.config.protocol import CenterCrop, Dense, TestProtocol, ten_crop
from pipeline.config.recipe import load_recipe
from pipeline.data.sources.loose_images import loose_images
from pipeline.data.sources.prepare import prepare_folder
from pipeline.data.store.packing import Sample
from pipeline.evaluation.guesses import Answer
from pipeline.models.zoo import NETWORKS, build_model
from pipeline.pretrained.torchvision_weights import COUNTERPARTS
from pipeline.runs.evaluated_model import EvaluatedModel, external_model, model_of_run
from pipeline.runs.model_export import export_network
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.errors import UserError
from pipeline.trainer.evaluation_run import run_evaluation
from pipeline.trainer.prediction_run import run_prediction

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return trained_run(tmp_path_factory.mktemp("asked") / "runs" / "mine", small_recipe())


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two photographs that scikit-learn ships, as JPEGs."""
    folder = tmp_path_factory.mktemp("photographs")
    for name, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        Image.fromarray(photo).save(folder / f"{name}.jpg", quality=90)
    return folder


@pytest.fixture(scope="module")
def odd_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that are packed as something else, or with something ignored, in a class folder."""
    folder = tmp_path_factory.mktemp("odd") / "all"
    folder.mkdir()
    photo = Image.fromarray(load_sample_images().images[0]).resize((160, 107))
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    turned = Image.Exif()
    turned[274] = 6  # to be turned by 90°
    photo.save(folder / "exif.jpg", exif=turned)
    grey = np.asarray(photo.convert("L"), dtype=np.uint16) * 257
    Image.fromarray(grey).save(folder / "grey16.png")
    photo.convert("RGBA").save(folder / "transparent.png")
    photo.save(folder / "plain.webp", quality=90)
    return folder


def cluster_of(run: RunFolder, tracking_uri: str, *more: str) -> Cluster:
    tracking = f"tracking={{uri: '{tracking_uri}', experiment: asked}}"
    place = f"runs_dir={run.path.parent}"
    return load_cluster("laptop", [place, "workers.count=0", tracking, *more])


def asked(
    model: EvaluatedModel, places: Sequence[Path], cluster: Cluster, protocol: TestProtocol
) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}

    def keep(sample: Sample, answer: Answer) -> None:
        answers[Path(sample.key).stem] = answer

    samples = loose_images([str(place) for place in places], io.BytesIO())
    run_prediction(model, samples, protocol, len(CLASSES), cluster, keep)
    return answers


def probabilities(answer: Answer) -> list[float]:
    """Return them in the order of the network's outputs."""
    return [each.probability for each in sorted(answer.guesses, key=lambda each: each.output)]


@pytest.mark.parametrize(
    ("backend", "protocols"),
    [("dali", [ten_crop(72), Dense(resize=(72, 96))]), ("reference", [CenterCrop(resize=72)])],
)
def test_probabilities_are_those_that_evaluate_keeps(
    run: RunFolder,
    photos: Path,
    odd_images: Path,
    tracking_uri: str,
    tmp_path: Path,
    backend: str,
    protocols: list[TestProtocol],
) -> None:
    images = tmp_path / "images"
    shutil.copytree(odd_images, images / "n03877845")
    shutil.copytree(photos, images / "n11939491")
    (images / "something else").mkdir()
    shutil.copy(photos / "china.jpg", images / "something else" / "again.jpg")
    prepare_folder(
        images, tmp_path / "packed", "packed", val_share=0.3, on_bad="stop", num_workers=0,
        progress=lambda done, total: None, only_val=True,
    )  # fmt: skip
    cluster = cluster_of(run, tracking_uri, f"loading.backend={backend}")
    model = model_of_run(run)
    for protocol in protocols:
        kept = run_evaluation(model, run, tmp_path / "packed", "val", protocol, cluster, QUIET)
        answers = asked(model, [images], cluster, protocol)
        names = [key.rpartition("/")[2] for key in kept.keys]
        assert set(names) == answers.keys()
        assert len(names) == 8
        found = np.array([probabilities(answers[name]) for name in names])
        assert kept.probabilities.std(0).max() > 0.001  # the images differ
        np.testing.assert_array_equal(found.astype(np.float16), kept.probabilities)
        assert {answer.protocol for answer in answers.values()} == {kept.metadata.protocol}
        assert answers[names[0]].weights_digest == kept.metadata.weights_digest
        for name, guesses in zip(names, kept.guesses, strict=True):
            assert [each.output for each in answers[name].guesses] == guesses.tolist()


def command(
    arguments: Sequence[str | Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    standard_input: bytes = b"",
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["ilsvrc", *map(str, arguments)])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(standard_input)))
    with pytest.raises(SystemExit) as end:
        main()
    output = capsys.readouterr()
    code = end.value.code
    assert isinstance(code, int)
    return code, output.out, output.err


def test_what_is_no_image_is_named_and_the_others_are_predicted(
    run: RunFolder,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pictures"
    (folder / "deeper").mkdir(parents=True)
    shutil.copy(photos / "china.jpg", folder / "deeper" / "one.jpg")
    shutil.copy(photos / "flower.jpg", folder / "two.jpg")
    (folder / "notes.txt").write_text("no picture")
    (folder / "cut.jpg").write_bytes((photos / "china.jpg").read_bytes()[:5000])
    (folder / ".DS_Store").write_text("left by a desktop")
    given = [run.path, "pictures", "-", "gone.jpg", "--set", "cluster.loading.backend=reference"]
    picture = (photos / "china.jpg").read_bytes()
    code, out, err = command(
        ["predict", *given, "--json", "--top", "2", "--show", "seen.png"],
        monkeypatch, capsys, picture,
    )  # fmt: skip
    assert code == 1
    bad = dict(line.split(": ", 1) for line in err.splitlines())
    assert bad.keys() == {"pictures/notes.txt", "pictures/cut.jpg", "gone.jpg"}
    assert bad["pictures/notes.txt"].startswith("not an image; only JPEG")
    assert bad["gone.jpg"] == "can't be read (No such file or directory)"
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["file"] for line in lines] == ["pictures/deeper/one.jpg", "pictures/two.jpg", "-"]
    assert lines[0]["top"] == lines[2]["top"]  # the same bytes
    for line in lines:
        assert line["protocol"] == "center-72-64"
        assert line["network"] == "resnet18"
        assert line["weights_digest"] == run.record().weights_digest  # type: ignore[union-attr]
        assert len(line["top"]) == 2
        for each in line["top"]:
            known = CLASSES[each["output"]]
            assert each["name"] == (known.words or known.name)
            assert each["wnid"] == (known.name if known.words else None)
    with Image.open("seen.png") as shown:
        assert shown.format == "PNG"
        assert shown.width > shown.height  # three photographs side by side
    code, out, err = command(["predict", *given[:1], photos, *given[4:]], monkeypatch, capsys)
    assert (code, err) == (0, "")
    head, *rest = out.splitlines()
    assert head == f"mine (resnet18), weights {lines[0]['weights_digest'][:8]}, by center-72-64"
    assert rest[0] == f"{photos}/china.jpg"
    assert len(rest) == 2 * (1 + 3)


def test_a_run_torchvisions_file_and_an_export_of_the_same_weights_agree(
    run: RunFolder,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours, recipe = load_file(run.weights), run.recipe()
    theirs = torchvision.models.get_model(COUNTERPARTS["resnet18"], num_classes=3).state_dict()
    names = zip(theirs, build_model(recipe.network, recipe.input).state_dict(), strict=True)
    torch.save({name: ours[own] for name, own in names}, tmp_path / "resnet18.pth")
    names_file = tmp_path / "classes.txt"
    names_file.write_text("".join(f"{each.name} {each.words}\n" for each in CLASSES))
    mean, std = (list(values) for values in (recipe.input.mean, recipe.input.std))
    external = f"{{mean: {mean}, std: {std}, value_range: 255, resize: 72, crop: 64}}"
    code, own, _ = command(["predict", run.path, photos, "--json"], monkeypatch, capsys)
    assert code == 0
    given = ["predict", f"torchvision:{tmp_path / 'resnet18.pth'}", photos, "--network", "resnet18",
             "--preprocessing", external, "--json"]  # fmt: skip
    code, other, err = command([*given, "--classes", names_file], monkeypatch, capsys)
    assert code == 0
    assert "is not recorded" not in err
    export = export_network(run, "onnx", tmp_path / "mine.onnx")
    code, exported, _ = command(
        ["predict", f"onnx:{export}", photos, "--json"], monkeypatch, capsys
    )
    assert code == 0
    for text in (other, exported):
        for line, expected in zip(
            map(json.loads, text.splitlines()), map(json.loads, own.splitlines()), strict=True
        ):
            assert (line["file"], line["protocol"]) == (expected["file"], expected["protocol"])
            for each, same in zip(line["top"], expected["top"], strict=True):
                assert each == {
                    **same, "probability": pytest.approx(same["probability"], abs=1e-6)
                }  # fmt: skip
    code, numbered, err = command(given, monkeypatch, capsys)
    assert "the 3 classes of resnet18 are called is not recorded" in err
    assert "--classes FILE names them" in err
    (first, _) = map(json.loads, numbered.splitlines())
    assert {each["name"] for each in first["top"]} == {"0", "1", "2"}


def test_imagenets_thousand_classes_are_named_where_a_file_does_not(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As in torchvision's order: that of the WNIDs."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    torch.nn.init.zeros_(network.fc.weight)
    with torch.no_grad():
        network.fc.bias.copy_(torch.arange(1000) == 65)
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    given = ["predict", f"torchvision:{tmp_path / 'resnet18.pth'}", photos / "china.jpg", "--json"]
    code, printed, err = command([*given, "--network", "resnet18"], monkeypatch, capsys)
    assert code == 0
    assert "taken for ImageNet's in the order of their WNIDs" in err
    first = json.loads(printed)["top"][0]
    assert (first["name"], first["output"]) == ("sea snake", 65)


def test_own_weights_tell_how_many_classes_they_have(
    run: RunFolder, photos: Path, tracking_uri: str, tmp_path: Path
) -> None:
    cluster = cluster_of(run, tracking_uri, "loading.backend=reference")
    model = external_model(str(run.weights), "resnet18", None, None)
    model = replace(model, input=small_recipe().input, protocol=small_recipe().evaluation)
    expected = asked(model_of_run(run), [photos], cluster, model.protocol)
    found = asked(model, [photos], cluster, model.protocol)
    assert {name: probabilities(answer) for name, answer in found.items()} == {
        name: probabilities(answer) for name, answer in expected.items()
    }
    two = tmp_path / "two.txt"
    two.write_text("one\ntwo\n")
    with pytest.raises(UserError, match=r"has 3 outputs, but --classes .*two.txt names 2 classes"):
        run_prediction(
            model, loose_images([str(photos)], io.BytesIO()), model.protocol, 5, cluster,
            lambda sample, answer: None, classes=two,
        )  # fmt: skip


def test_what_can_not_be_asked_is_refused(
    run: RunFolder,
    photos: Path,
    tracking_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = load_recipe("mnist1d_conv")
    signals = trained_run(tmp_path / "signals", recipe, ())
    cluster = cluster_of(run, tracking_uri)
    with pytest.raises(UserError, match="mnist1d_conv takes signals, not images"):
        asked(model_of_run(signals), [photos], cluster, recipe.evaluation)
    save_file(NETWORKS["lenet5"](num_classes=10).state_dict(), tmp_path / "own.safetensors")
    (tmp_path / "nothing").mkdir()
    for arguments, message in (
        ([tmp_path / "own.safetensors", photos], "say with --network NAME which network these"),
        ([run.path, tmp_path / "nothing"], "nothing: no images there"),
        ([run.path, photos, "--show", "seen.jpg"], "--show seen.jpg: is written as PNG"),
        ([run.path, photos, "--network", "resnet18"], "--network: run .* has its own"),
        (["resnet19", photos], "no run 'resnet19'"),
    ):
        code, out, err = command(["predict", *arguments], monkeypatch, capsys)
        assert (code, out) == (2, "")
        assert message.split(".*")[0] in err
