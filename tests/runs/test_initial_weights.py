"""Starting from trained weights: loaded, recorded, refused where they don't fit."""

import pickle
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.config.cluster import Cluster, load_cluster
from pipeline.config.recipe import Recipe, load_recipe
from pipeline.models.vgg import vgg_a
from pipeline.runs.initial_weights import find_initial_weights
from pipeline.runs.run_folder import RunFolder, find_run
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


def test_a_deeper_vgg_starts_from_vgg_a(tmp_path: Path) -> None:
    with torch.device("meta"):
        weights = vgg_a(2).state_dict()
    file = tmp_path / "a.pt"
    # Views of one number: with the shapes of A, and small on disk.
    torch.save({name: torch.zeros(()).expand(value.shape) for name, value in weights.items()}, file)
    assert find_initial_weights(tmp_path, str(file), small_vgg_recipe("vgg16")).file == file
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
