"""Starting from trained weights: loaded, recorded, refused where they don't fit."""

import hashlib
import math
import pickle
from io import StringIO
from pathlib import Path

import pytest
import torch
import torchvision
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.config.cluster import Cluster, load_cluster
from pipeline.config.recipe import Recipe, load_recipe
from pipeline.data.sources.prepare import prepare_folder
from pipeline.data.store.store import Store
from pipeline.models.resnet import resnet18
from pipeline.models.vgg import vgg_a
from pipeline.models.zoo import build_model
from pipeline.pretrained import formats
from pipeline.pretrained.preprocessing import Preprocessing
from pipeline.pretrained.pretrained_weights import PretrainedWeights
from pipeline.pretrained.torchvision_weights import from_torchvision
from pipeline.runs.initial_weights import find_initial_weights
from pipeline.runs.run_folder import RunFolder, find_run, name_run
from pipeline.runtime.errors import UserError
from pipeline.tracking.queries import tracked_run
from pipeline.trainer.driver import run_replay, run_training

QUIET = Console(quiet=True)
UNCHANGING = ["epochs=1", "optimizer.learning_rate=1e-12", "optimizer.weight_decay=0", "seed=7"]


@pytest.fixture
def cluster(data_dir: Path, tracking_uri: str, tmp_path: Path) -> Cluster:
    places = [f"data_dir={data_dir}", f"runs_dir={tmp_path}/runs", f"tracking.uri={tracking_uri}"]
    return load_cluster("laptop", [*places, "workers.count=0"])


def small_vgg_recipe(network: str) -> Recipe:
    return load_recipe("vgg16", [f"network.name={network}", "network.num_classes=2"])


def test_a_training_starts_from_a_trained_run(cluster: Cluster) -> None:
    first = run_training(load_recipe("smoke", ["epochs=1"]), "smoke", cluster, "first", QUIET)
    assert first
    unchanging = load_recipe("smoke", UNCHANGING)
    outcome = run_training(unchanging, "smoke", cluster, None, QUIET, start_from="first")
    assert outcome
    before, after = load_file(first.folder.weights), load_file(outcome.folder.weights)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-6)

    record = outcome.folder.record()
    assert record
    digest = record.start_digest
    assert outcome.folder.name.endswith(f"-from-{digest[:8]}")
    tags = tracked_run(cluster.tracking.uri, record.tracking_run_id).tags
    assert (tags["start.from"], tags["start.digest"]) == ("first", digest)
    assert tags["dataset.extra"] == "none"  # the same digits

    with pytest.raises(UserError, match="started from weights that it doesn't keep"):
        run_replay(outcome.folder, 1, cluster, QUIET)

    file = str(first.folder.weights)
    again = run_training(unchanging, "smoke", cluster, "of-file", QUIET, start_from=file)
    assert again
    record = again.folder.record()
    assert record
    assert record.start_digest == digest
    # It is unknown on what data a file's weights were trained.
    assert record.extra_data == f"start {digest[:8]}"
    others = cluster.runs_dir / "others.safetensors"
    save_file({name: value + 1 for name, value in after.items()}, others)
    for other, message in ((None, "not from random weights"), (str(others), "not from weights")):
        with pytest.raises(UserError, match=message):
            run_training(unchanging, "smoke", cluster, "of-file", QUIET, start_from=other)
    assert find_run(cluster.runs_dir, "of-file").is_trained


SMALL = [
    *("network={name: resnet18, num_classes: 2}", "data.name=photos", "epochs=2"),
    *("input.size=64", "evaluation.resize=72"),
]
TUNED = [*SMALL, "freeze_until=conv3_x", "optimizer.head_rate=10", "averaging={decay: 0.5}"]


@pytest.fixture(scope="module")
def photos(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packed data sets that holds `photos`, of two classes."""
    folder = tmp_path_factory.mktemp("packed")
    prepare_folder(
        photo_folder, folder / "photos", "photos", val_share=0.3, on_bad="stop", num_workers=0,
        progress=lambda done, total: None,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torchvision's ResNet-18 for 5 classes, in its own file; its statistics are not the first."""
    torch.manual_seed(5)
    network = torchvision.models.resnet18(num_classes=5)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.1, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    file = tmp_path_factory.mktemp("theirs") / "resnet18.pth"
    torch.save(network.state_dict(), file)
    return file


def test_two_workers_train_other_classes_from_torchvisions_weights(
    photos: Path, theirs: Path, tracking_uri: str, tmp_path: Path, ray_session: None
) -> None:
    places = [f"data_dir={photos}", f"runs_dir={tmp_path}/runs", f"tracking.uri={tracking_uri}"]
    cluster = load_cluster("laptop", [*places, "saving.log_every_steps=1"])
    recipe = load_recipe("finetune_resnet50", TUNED)
    name = f"torchvision:{theirs}"
    said = StringIO()
    result = run_training(
        recipe, "tuned", cluster, None, Console(file=said, width=10_000), name, new_head=True
    )
    assert result
    for line in (
        "loaded: conv1, bn1, conv2_x, conv3_x, conv4_x, conv5_x",
        "new: fc, for 2 classes",
        "frozen, with the statistics of their batch norm: conv1, bn1, conv2_x, conv3_x",
    ):
        assert f"starts from {name}: {line}" in said.getvalue()

    # Frozen layers are as they were, bit by bit; the others have learnt; the head is new.
    torch.manual_seed(recipe.seed)
    random = build_model(recipe.network, recipe.input).state_dict()
    before = from_torchvision("resnet18", torch.load(theirs, weights_only=True)).weights
    frozen = ("conv1.", "bn1.", "conv2_x.", "conv3_x.")
    after = load_file(result.folder.weights)
    for key, value in after.items():
        start = random[key] if key.startswith("fc.") else before[key]
        assert torch.equal(value, start) == key.startswith(frozen), key
        if value.dim() == 4:  # a convolution
            assert (value - before[key]).norm() < 0.1 * (value - random[key]).norm(), key
    assert (after["fc.weight"] - random["fc.weight"]).abs().max() < 0.1

    record = result.folder.record()
    assert record
    assert record.start_weights == f"torchvision:{theirs}"
    assert (record.new_head, record.new_layers) == (True, ("fc",))
    digest = hashlib.sha256(theirs.read_bytes()).hexdigest()
    assert record.extra_data == f"start {digest[:8]}"
    assert result.folder.name.endswith(f"-from-{digest[:8]}-new-head")
    tags = tracked_run(tracking_uri, record.tracking_run_id).tags
    assert {key: value for key, value in tags.items() if key.startswith("start.")} == {
        "start.from": name,
        "start.file": str(theirs),
        "start.format": "torchvision",
        "start.digest": digest,
        "start.new_layers": "fc",
    }
    # A step of the second epoch runs again from the checkpoint, without the weights of the start.
    num_images = len(Store.open(photos / "photos").split("train"))
    last = recipe.epochs * math.ceil(num_images / recipe.batch.global_batch_size)
    assert run_replay(result.folder, last, cluster, QUIET).step == last

    # A run's own weights are another start: here for three classes again, from these two.
    other = load_recipe("finetune_resnet50", [*SMALL, "network.num_classes=3"])
    start = find_initial_weights(cluster.runs_dir, result.folder.name, other, new_head=True)
    assert (start.layers.new, start.source.format) == (("fc",), "")
    with pytest.raises(UserError, match="classes, or give --new-head"):
        find_initial_weights(cluster.runs_dir, result.folder.name, other)
    with pytest.raises(
        UserError, match=r"started from weights .{8} with a new head, not from random"
    ):
        name_run(cluster.runs_dir, result.folder.name, recipe, "tuned")


def test_what_needs_trained_weights_is_refused_without(photos: Path, tmp_path: Path) -> None:
    cluster = load_cluster("laptop", [f"data_dir={photos}", f"runs_dir={tmp_path}"])
    for more, new_head, message in (
        ([], True, "^--new-head: all weights are random"),
        (["freeze_until=conv3_x"], False, "^freeze_until: conv3_x: all weights are random"),
    ):
        recipe = load_recipe("finetune_resnet50", [*SMALL, *more])
        with pytest.raises(UserError, match=message):
            run_training(recipe, "tuned", cluster, None, QUIET, new_head=new_head)


def test_weights_of_elsewhere_are_refused_by_one_line(theirs: Path, tmp_path: Path) -> None:
    recipe = load_recipe("finetune_resnet50", SMALL)
    for name, wanted, message in (
        (f"torchvision:{tmp_path}/none.pth", recipe, "no such file"),
        (f"torchvison:{theirs}", recipe, "is no format; did you mean `torchvision`"),
        (f"torchvision:{theirs}", recipe, "fc.weight is .5, 512.*give --new-head"),
        (
            f"torchvision:{theirs}",
            load_recipe("finetune_resnet50", [*SMALL, "network.name=densenet121"]),
            "is missing, for densenet121; its layers are those of resnet18",
        ),
    ):
        with pytest.raises(UserError, match=f"^--start-from {name}: (.*){message}"):
            find_initial_weights(tmp_path, name, wanted)


def test_weights_that_saw_other_numbers_say_so(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As Caffe's networks: blue first, without a deviation.
    seen = Preprocessing(
        mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0), colors="bgr", value_range=255
    )
    weights = from_torchvision("resnet18", torch.load(theirs, weights_only=True)).weights

    def read(file: Path, network: str | None, *, ema: bool) -> PretrainedWeights:
        return PretrainedWeights("resnet18", weights, 5, preprocessing=seen)

    monkeypatch.setitem(formats.FORMATS, "blue", read)
    name = f"blue:{theirs}"
    five = [*SMALL, "network.num_classes=5"]
    start = find_initial_weights(tmp_path, name, load_recipe("finetune_resnet50", five))
    assert start.remarks[-2:] == (
        "they were trained with another input.mean; add --set 'input.mean=[123, 117, 104]'",
        "they were trained with another input.std; add --set 'input.std=[1, 1, 1]'",
    )
    fitting = ["input.mean=[123, 117, 104]", "input.std=[1, 1, 1]"]
    recipe = load_recipe("finetune_resnet50", [*five, *fitting])
    start = find_initial_weights(tmp_path, name, recipe)
    assert not any("another input" in remark for remark in start.remarks)

    # On red first, the network gives what it gave on blue first.
    ours, original = resnet18(5), resnet18(5)
    start.load_into(ours)
    original.load_state_dict(weights)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), original.eval()(images.flip(1)))

    other = load_recipe("finetune_resnet50", [*five, "network.name=resnet18_option_c"])
    with pytest.raises(UserError, match=r"weights of resnet18, .* --set network.name=resnet18$"):
        find_initial_weights(tmp_path, name, other)


def test_a_deeper_vgg_starts_from_vgg_a(tmp_path: Path) -> None:
    with torch.device("meta"):
        weights = vgg_a(2).state_dict()
    file = tmp_path / "a.pt"
    # Of bytes, which is a quarter of the file; only names and shapes are looked at here.
    small = {name: torch.zeros(value.shape, dtype=torch.uint8) for name, value in weights.items()}
    torch.save(small, file)
    assert find_initial_weights(tmp_path, str(file), small_vgg_recipe("vgg16")).source.file == file
    with pytest.raises(UserError, match=r"a\.pt: weights to start from: .*this lacks bn1_1\.bias"):
        find_initial_weights(tmp_path, str(file), small_vgg_recipe("vgg16_bn"))
    with pytest.raises(UserError, match=r"fc8\.weight is \(2, 4096\), .* \(1000, 4096\)"):
        find_initial_weights(tmp_path, str(file), load_recipe("vgg19"))


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    recipe = load_recipe("smoke")
    (tmp_path / "code.pt").write_bytes(pickle.dumps(nn.Linear(2, 2)))
    (tmp_path / "words.pt").write_text("hello world")
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "begun").mkdir()
    RunFolder(tmp_path / "begun").write_recipe(recipe)
    for name, message in (
        ("code.pt", "holds no weights"),
        ("words.pt", "holds no weights"),
        ("other.safetensors", "they hold conv1.weight"),
        ("nothing", "no run 'nothing'"),
        ("begun", "run 'begun' has no final weights yet"),
    ):
        with pytest.raises(UserError, match=message):
            find_initial_weights(tmp_path, str(tmp_path / name) if "." in name else name, recipe)
