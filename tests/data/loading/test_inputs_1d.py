"""MNIST-1D from the command to the batch: exact values in order, or an error that says why not."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mnist1d.data
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pipeline.checks.preflight import preflight
from pipeline.cli.commands import app
from pipeline.config.cluster import LoadingConfig, load_cluster
from pipeline.config.protocol import WholeImage
from pipeline.config.recipe import InputConfig, Recipe, load_recipe
from pipeline.data.loading.loader import Loader, build_loader
from pipeline.data.loading.plans import evaluation_plan, training_plan
from pipeline.data.loading.sampler import BatchSampler, epoch_order
from pipeline.data.sources.mnist1d import mnist1d_samples
from pipeline.data.sources.prepare import prepare_mnist1d
from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.npy import decode_npy, encode_npy
from pipeline.data.store.packing import Sample, write_store
from pipeline.data.store.store import Split, Store
from pipeline.runtime.errors import UserError
from pipeline.tracking.mlflow_model import _signature

CPU = torch.device("cpu")
INPUT = InputConfig(size=40, dimensions=1, color="gray", mean=(0.25,), std=(0.5,))


@pytest.fixture(scope="module")
def drawn() -> dict[str, Any]:
    """The data that the package generates, filled by `store`: that takes seconds."""
    return {}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, drawn: dict[str, Any]) -> Store:
    """The packed data set, made by the command."""
    folder = tmp_path_factory.mktemp("data") / "mnist1d"
    draw = mnist1d.data.make_dataset

    def recorded(args: object) -> dict[str, Any]:
        drawn.update(draw(args))
        return drawn

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist1d.data, "make_dataset", recorded)
        done = CliRunner().invoke(app, ["prepare", "mnist1d", "--to", str(folder)])
    assert done.exit_code == 0, done.output
    assert "4,000 train, 1,000 test signals, 10 classes" in done.output
    return Store.open(folder)


def recipe_of_signals(**changes: Any) -> Recipe:
    content = load_recipe("smoke").model_dump(mode="json") | {
        "data": {"name": "mnist1d", "train_split": "train", "test_split": "test"},
        "input": INPUT.model_dump(mode="json"),
        "augmentation": {"kind": "none"},
    }
    return Recipe.model_validate(content | changes)


def load(split: Split, plan: Any, input: InputConfig = INPUT) -> Loader:
    return build_loader(
        split, plan, input, LoadingConfig(), CPU, max_batch_size=100, fill=None, channels_last=True
    )


def test_values_are_the_published_ones(store: Store, drawn: dict[str, Any]) -> None:
    for name, values, labels in (("train", "x", "y"), ("test", "x_test", "y_test")):
        split = store.split(name)
        assert split.contents == "signals"
        assert (split.sizes == (1, 40)).all()
        assert split.labels.tolist() == drawn[labels].tolist()
        packed = np.stack([decode_npy(split.encoded(i), 40) for i in range(len(split))])
        np.testing.assert_array_equal(packed, drawn[values].astype(np.float32), strict=True)


def test_digest_is_the_same_on_every_machine(store: Store) -> None:
    assert store.digest == "70396eb89de36fb4662502a5d63ba4a69c4b821d02e82fa471efbb5a991a6788"


def test_members_are_npy_files_that_need_no_pickle(store: Store) -> None:
    with tarfile.open(store.folder / "test-000000.tar") as shard:
        first, label = shard.getmembers()[:2]
        assert (first.name, label.name) == ("mnist1d-4000.npy", "mnist1d-4000.cls")
        file = shard.extractfile(first)
        assert file is not None
        values = np.load(io.BytesIO(file.read()), allow_pickle=False)
    assert (values.shape, values.dtype) == ((40,), np.float32)


def test_preparing_again_generates_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist1d.data, "make_dataset", None)
    assert prepare_mnist1d(store.folder, lambda done, total: None).already_there


def test_other_data_than_the_published_is_refused(
    store: Store, drawn: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(args: object) -> dict[str, Any]:
        np.random.seed(1)  # noqa: NPY002  as the package does
        return {**drawn, "x": drawn["x"] + 2e-6}

    monkeypatch.setattr(mnist1d.data, "make_dataset", draw)
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    with pytest.raises(UserError, match=r"mnist1d 0.* numpy .* other signals .*constraints.txt"):
        mnist1d_samples(lambda done, total: None)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_a_training_loads_the_signals_in_the_epochs_order(
    store: Store, drawn: dict[str, Any]
) -> None:
    recipe = recipe_of_signals(seed=3, epochs=2)
    split = store.split("train")
    sampler = BatchSampler(4000, 100, 2, 2)
    batches = load(split, training_plan(recipe, split, sampler, 1, 1, 39))
    (batch,) = list(batches)  # the last step of the last epoch, second worker of two
    indices = epoch_order(3, 1, 4000)[3950:]
    assert batch.indices.tolist() == indices.tolist()
    assert batch.labels.tolist() == drawn["y"][indices].tolist()
    expected = (drawn["x"][indices].astype(np.float32) - np.float32(0.25)) / np.float32(0.5)
    np.testing.assert_array_equal(batch.images.numpy(), expected[:, None], strict=True)


def test_an_evaluation_loads_each_signal_once(store: Store) -> None:
    split = store.split("test")
    loaded = [
        index
        for rank in range(3)
        for batch in load(split, evaluation_plan(WholeImage(), 40, split, rank, 3, 64))
        for index in batch.indices.tolist()
    ]
    assert loaded == list(range(1000))


def test_a_step_of_a_linear_classifier_is_numpys(store: Store, drawn: dict[str, Any]) -> None:
    split = store.split("train")
    batch = next(load(split, evaluation_plan(WholeImage(), 40, split, 0, 1, 100)))
    network = torch.nn.Linear(40, 10)
    weight, bias = (value.detach().numpy().astype(np.float64) for value in network.parameters())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    torch.nn.functional.cross_entropy(network(batch.images[:, 0]), batch.labels).backward()
    optimizer.step()

    signals = (drawn["x"][:100] - 0.25) / 0.5
    scores = np.exp(signals @ weight.T + bias)
    slope = scores / scores.sum(axis=1, keepdims=True) - np.eye(10)[drawn["y"][:100]]
    np.testing.assert_allclose(
        network.weight.detach(), weight - 0.1 * slope.T @ signals / 100, atol=1e-6
    )
    np.testing.assert_allclose(network.bias.detach(), bias - 0.1 * slope.mean(axis=0), atol=1e-6)


def not_a_number(data: bytes) -> bytes:
    return data[:-4] + np.float32(np.nan).tobytes()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data.replace(b"<f4", b"<f8"), "isn't 40 float32 values in an .npy file"),
        (lambda data: bytes(len(data)), "isn't 40 float32 values in an .npy file"),
        (not_a_number, "has values that are not finite"),
    ],
)
def test_a_damaged_signal_is_named(
    damage: Callable[[bytes], bytes], reason: str, tmp_path: Path
) -> None:
    signals = np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32)
    samples = [Sample(f"s-{i}", encode_npy(v), i % 2, 1, 40) for i, v in enumerate(signals)]
    made = write_store(
        tmp_path / "signals",
        name="signals",
        classes=[ImageClass(0, "a"), ImageClass(1, "b")],
        splits={"train": samples},
        source={},
        contents="signals",
    )
    shard = made.folder / "train-000000.tar"
    shard.write_bytes(shard.read_bytes().replace(samples[3].data, damage(samples[3].data)))
    split = made.split("train")
    loader = load(split, evaluation_plan(WholeImage(), 40, split, 0, 1, 2))
    next(loader)
    with pytest.raises(UserError, match=rf"train-000000\.tar: s-3: the signal {reason}; run"):
        next(loader)


def test_signals_and_images_are_not_confused(store: Store, data_dir: Path) -> None:
    digits = Store.open(data_dir / "digits").split("train")
    signals = store.split("train")
    as_images = InputConfig(size=32, color="gray", mean=(0,), std=(1,))
    with pytest.raises(UserError, match=r"holds images, .* input.dimensions: 1; .* to 2"):
        load(digits, [])
    with pytest.raises(UserError, match=r"holds signals, .* input.dimensions: 2; .* to 1"):
        load(signals, [], as_images)
    with pytest.raises(UserError, match=r"signals of 40 values, .* input.size: 39; .* to 40"):
        load(signals, [], INPUT.model_copy(update={"size": 39}))


@pytest.mark.parametrize(
    ("data", "input_section", "holds"),
    [
        ({"name": "digits"}, {"size": 40, "dimensions": 1}, "images"),
        ({"name": "mnist1d", "test_split": "test"}, {"size": 32}, "signals"),
    ],
)
def test_preflight_says_so_before_any_work(
    data: dict[str, Any], input_section: dict[str, Any], holds: str, store: Store, data_dir: Path
) -> None:
    folder = store.folder.parent if holds == "signals" else data_dir
    recipe = recipe_of_signals(
        data=data, input={"color": "gray", "mean": [0], "std": [1], **input_section}
    )
    (check,) = preflight(recipe, load_cluster("laptop", [f"data_dir={folder}"]), ("data set",))
    assert not check.passed
    assert f"the data set holds {holds}" in check.message


def test_preflight_counts_signals(store: Store) -> None:
    cluster = load_cluster("laptop", [f"data_dir={store.folder.parent}"])
    (check,) = preflight(recipe_of_signals(), cluster, ("data set",))
    assert check.message == "mnist1d: 4,000 train, 1,000 test signals, 10 classes"


def test_a_served_network_of_signals_takes_no_files_of_images() -> None:
    assert _signature(recipe_of_signals()).inputs.input_names() == ["array"]
    assert _signature(load_recipe("smoke")).inputs.input_names() == ["image", "array"]
