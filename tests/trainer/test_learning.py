"""Networks learn, by the recipes that ship and through the whole pipeline, what they should."""

import gzip
import re
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from pipeline.config.cluster import load_cluster
from pipeline.config.recipe import load_recipe
from pipeline.data.sources.prepare import prepare_folder, prepare_mnist, prepare_mnist1d
from pipeline.evaluation.metrics import Counts
from pipeline.launch.events import Event, ValidationReport
from pipeline.launch.ray_train import run_on_workers
from pipeline.launch.training_job import TrainingJob
from pipeline.models.zoo import NETWORKS, constructor
from pipeline.runs.run_folder import RunFolder, RunRecord
from pipeline.runtime.errors import TrainingStoppedError
from pipeline.tracking.mlflow_runs import start_run
from pipeline.trainer.worker import train

RECIPES = Path(__file__).parents[2] / "configs" / "recipes"

Train = Callable[..., Counts]


class LearntByHeartError(Exception):
    """Not one error is left."""


@pytest.fixture
def train_recipe(tracking_uri: str, tmp_path: Path) -> Train:
    """Train in this process, no longer than until nothing is left to learn; return the counts."""

    def train_recipe(name: str, data_dir: Path, *assignments: str) -> Counts:
        last: list[Counts] = []

        def observe(event: Event) -> None:
            if isinstance(event, ValidationReport):
                last.append(event.counts)
                if event.counts.top1_hits == event.counts.images:
                    raise LearntByHeartError

        recipe = load_recipe(name, list(assignments))
        cluster = load_cluster("laptop", [f"data_dir={data_dir}", "workers.count=0"])
        run_id = start_run(tracking_uri, "tests", run_name=name, params={}, tags={})
        folder = RunFolder(Path(tempfile.mkdtemp(dir=tmp_path)))
        folder.write_recipe(recipe)
        folder.write_record(RunRecord(dataset_digest="", tracking_run_id=run_id))
        with suppress(LearntByHeartError):
            run_on_workers(train, TrainingJob(recipe, cluster, folder, tracking_uri), observe)
        return last[-1]

    return train_recipe


@pytest.fixture(scope="module")
def signals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signals")
    prepare_mnist1d(folder / "mnist1d", lambda done, total: None)
    return folder


def test_convolutions_learn_from_signals_what_dense_layers_do_not(
    train_recipe: Train, signals: Path
) -> None:
    convolutional = train_recipe("mnist1d_conv", signals, "epochs=30")
    dense = train_recipe("mnist1d_dense", signals, "epochs=30")
    assert convolutional.top1_error < 30
    assert dense.top1_error > convolutional.top1_error + 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "lowest", "highest"), [("mnist1d_conv", 0.0, 17.0), ("mnist1d_dense", 35.0, 42.0)]
)
def test_the_errors_on_signals_are_the_books(
    recipe: str, lowest: float, highest: float, train_recipe: Train, signals: Path
) -> None:
    errors = [train_recipe(recipe, signals, f"seed={seed}").top1_error for seed in range(5)]
    assert lowest <= sum(errors) / len(errors) <= highest


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files in MNIST's format of scikit-learn's digits, 898 to train and 899 to test."""
    folder, (digits, labels) = tmp_path_factory.mktemp("mnist"), load_digits(return_X_y=True)
    images = np.zeros((len(digits), 28, 28), np.uint8)
    for image, digit in zip(images, digits.reshape(-1, 8, 8), strict=True):
        field = Image.fromarray((digit * 255 / 16).astype(np.uint8))
        image[4:24, 4:24] = field.resize((20, 20), Image.Resampling.BICUBIC)
    parts = {"train": slice(0, 898), "test": slice(898, None)}
    for name, part in parts.items():
        write_idx(folder / f"{name}-images", images[part])
        write_idx(folder / f"{name}-labels.gz", labels[part].astype(np.uint8))
    files = [folder / f"{name}-{what}" for name in parts for what in ("images", "labels.gz")]
    prepare_mnist(*files, folder / "mnist", 0.1, lambda done, total: None)
    return folder


def write_idx(file: Path, values: NDArray[np.uint8]) -> None:
    header = struct.pack(f">I{values.ndim}I", 0x800 + values.ndim, *values.shape)
    content = header + values.tobytes()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


@pytest.mark.parametrize(
    ("recipe", "batch_size", "epochs"), [("lenet5", 10, 6), ("lenet5_mnist", 64, 10)]
)
def test_lenet5_learns_digits_in_mnists_files(
    recipe: str, batch_size: int, epochs: int, train_recipe: Train, mnist: Path
) -> None:
    whole = f"batch.micro_batch_size={batch_size}"  # the same sums as in parts for workers, faster
    assert train_recipe(recipe, mnist, whole, f"epochs={epochs}").top1_error < 10


def imagenet_networks() -> list[str]:
    with torch.device("meta"):
        return [name for name in NETWORKS if constructor(name)(8).input_shape.num_channels == 3]


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 crops of 160×160 pixels; the class is the photograph's quarter that each is from.

    They train and they test, so that the error of the evaluation is the training error. To train
    they are there four times: each of the fewer epochs ends in an evaluation and a checkpoint.
    """
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for photo, name in zip(load_sample_images().images, ("china", "flower"), strict=True):
        for quarter, (top, left) in enumerate([(0, 0), (0, 320), (213, 0), (213, 320)]):
            for number in range(8):
                y, x = top + random.integers(0, 54), left + random.integers(0, 160)
                crop = Image.fromarray(photo[y : y + 160, x : x + 160])
                for copy, split in enumerate(("train",) * 4 + ("val",)):
                    file = folder / split / f"{name}-{quarter}" / f"{number}-{copy}.jpg"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    crop.save(file, quality=90)
    target = tmp_path_factory.mktemp("data")
    prepare_folder(
        folder,
        target / "crops",
        "crops",
        val_share=0.1,
        on_bad="stop",
        num_workers=0,
        progress=lambda done, total: None,
    )
    return target


# The published weights of these, of deviation 0.01 in every layer and biases of 0, let so little
# through that they guess for longer than this test lasts; the run says so. The deeper VGGs start as
# their authors advise later.
FLAT = {"vgg_a", "vgg_a_lrn"}
# Of deviation 0.03 and biases of 1: at the others' rate it learns, and then loses all of it. Of 16
# and 19 layers without batch norm: its errors leap up and down.
RATES = {"alexnet_std003": 0.0005, "vgg_c": 0.001, "vgg19": 0.001}
# At half the rate still, one step in its thirteenth epoch loses all.
GRADIENT_NORMS = {"vgg_c": 20}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("network", imagenet_networks())
def test_64_crops_are_learnt_by_heart(network: str, crops: Path, train_recipe: Train) -> None:
    """With the start, the input and the loss of the published recipe."""
    with torch.device("meta"):
        shape = constructor(network)(8).input_shape
    is_published = (RECIPES / f"{network}.yaml").is_file()
    learn = partial(
        train_recipe,
        network if is_published else network.split("_")[0],
        crops,
        f"network.name={network}",
        "network.num_classes=8",
        "data={name: crops}",
        f"input.size={max(64, shape.min_size)}",
        "augmentation={kind: none}",
        "evaluation={kind: whole}",
        "batch={global_batch_size: 16, micro_batch_size: 16}",
        f"optimizer={{kind: sgd, learning_rate: {RATES.get(network, 0.002)}, momentum: 0.9}}",
        f"max_gradient_norm={GRADIENT_NORMS.get(network, 'null')}",
        "schedule={kind: constant}",
        "averaging=null",
        "epochs=40",
        "flat_loss_steps=160",
    )
    with torch.device("meta"):
        hint = re.escape(constructor(network)(8).flat_loss_hint)
    said = ""
    try:
        hits = learn().top1_hits
    except TrainingStoppedError as stopped:
        hits, said = 0, str(stopped)
    is_flat = bool(re.match(rf"flat loss: after 160 steps .*; {hint}$", said))
    assert (hits, is_flat) == ((0, True) if network in FLAT else (64, False)), said
