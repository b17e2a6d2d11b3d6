"""Every image is evaluated once, by any number of workers, and a missing one is an error."""

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn.functional import nll_loss

from pipeline.config.cluster import LoadingConfig
from pipeline.config.protocol import (
    CenterCrop,
    Crops,
    Dense,
    DenseAndCrops,
    TestProtocol,
    WholeImage,
)
from pipeline.config.recipe import InputConfig
from pipeline.data.store.store import Split, Store
from pipeline.evaluation.evaluate import (
    ScoredImages,
    count,
    evaluate,
    micronats,
    scored_images,
)
from pipeline.evaluation.evaluation_config import EvaluationConfig
from pipeline.evaluation.metrics import Counts
from pipeline.evaluation.prediction_writer import PredictionWriter
from pipeline.evaluation.predictions import PredictionMetadata, Predictions, read_predictions
from pipeline.runtime.distributed import Worker

CPU = torch.device("cpu")
ALONE = Worker(0, 1, CPU)
TINY = InputConfig(size=8, mean=(30,), std=(70,), color="gray")
PROTOCOLS: dict[str, TestProtocol] = {
    "whole": WholeImage(),
    "flip": CenterCrop(resize=10, flip=True),
    "crops": Crops(resize=(9, 12), positions="corners-and-center"),
    "logits": Crops(resize=(9,), positions=2, average="logits"),
}


class Linear(nn.Module):
    """A fast network with other logits for every image."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(num_classes, 64, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        return images.flatten(1) @ self.weight.T


@pytest.fixture(scope="module")
def digits(data_dir: Path) -> Split:
    return Store.open(data_dir / "digits").split("val")


class PartialSplit:
    """The first images of a split, with what evaluation needs of one."""

    def __init__(self, split: Split, num_images: int) -> None:
        self.labels, self.sizes = split.labels[:num_images], split.sizes[:num_images]
        self.keys, self.contents = split.keys[:num_images], split.contents
        self.verified_batch = split.verified_batch

    def __len__(self) -> int:
        return len(self.labels)


def config_of(
    split: Split | PartialSplit, protocol: TestProtocol, batch_size: int = 64
) -> EvaluationConfig:
    loading = LoadingConfig(backend="reference", evaluation_batch_size=batch_size)
    return EvaluationConfig(split, protocol, TINY, "float32", loading, channels_last=False)  # type: ignore[arg-type]


def scored_by(
    config: EvaluationConfig, rank: int = 0, world_size: int = 1
) -> Iterator[ScoredImages]:
    worker = Worker(rank, world_size, CPU)
    return scored_images(Linear().eval(), config, worker, lambda batches: batches)


@pytest.mark.parametrize("name", PROTOCOLS)
@settings(max_examples=8, deadline=None)
@given(num_images=st.integers(1, 24), world_size=st.integers(1, 8), batch_size=st.integers(1, 30))
def test_any_number_of_workers_counts_the_same(
    digits: Split, name: str, num_images: int, world_size: int, batch_size: int
) -> None:
    some, protocol = PartialSplit(digits, num_images), PROTOCOLS[name]
    parts: list[Counts] = []
    indices: list[int] = []
    for rank in range(world_size):
        scored = list(scored_by(config_of(some, protocol, batch_size), rank, world_size))
        images = sum(len(batch.labels) for batch in scored)
        parts.append(count(scored, images, ALONE))
        indices += [i for batch in scored for i in batch.indices.tolist()]
    expected = evaluate(Linear(), config_of(some, protocol), ALONE)
    total = Counts(*np.sum([astuple(part) for part in parts], axis=0).tolist())
    assert total == expected
    assert total.metrics(10) == pytest.approx(expected.metrics(10), rel=1e-5)
    assert indices == list(range(num_images))


def test_the_views_of_an_image_are_averaged(digits: Split) -> None:
    some = PartialSplit(digits, 20)
    mirrored = CenterCrop(resize=10, flip=True)
    (plain,) = scored_by(config_of(some, CenterCrop(resize=10)))
    (both,) = scored_by(config_of(some, mirrored))
    (logits,) = scored_by(config_of(some, mirrored.model_copy(update={"average": "logits"})))
    assert torch.equal(plain.probabilities, plain.scores.softmax(1))
    other = 2 * logits.scores - plain.scores  # of the mirrored view alone
    expected = (plain.scores.softmax(1) + other.softmax(1)) / 2
    torch.testing.assert_close(both.probabilities, expected)
    assert torch.equal(both.scores, both.probabilities)
    assert (both.probabilities - logits.probabilities).abs().max() > 1e-3


@pytest.mark.parametrize("flip", [False, True])
def test_the_loss_is_the_cross_entropy_of_the_averaged_probabilities(
    digits: Split, flip: bool
) -> None:
    some, protocol = PartialSplit(digits, 20), CenterCrop(resize=10, flip=flip)
    (scored,) = scored_by(config_of(some, protocol))
    expected = nll_loss(scored.probabilities.log(), scored.labels)
    found = evaluate(Linear(), config_of(some, protocol), ALONE)
    assert found.metrics(10)["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_the_loss_is_finite_for_any_probabilities() -> None:
    probabilities = torch.tensor([[0.5, 0.5], [0.0, 1.0], [torch.nan, torch.nan], [0.5, 0.5]])
    labels = torch.tensor([1, 0, 1, -1])
    assert int(micronats(probabilities, labels)) == pytest.approx(1e6 * (math.log(2) + 2 * 87.3365))


def test_a_missing_image_is_an_error(digits: Split) -> None:
    scored = list(scored_by(config_of(PartialSplit(digits, 9), WholeImage(), 4)))
    with pytest.raises(RuntimeError, match="9 images of a split of 10"):
        count(scored, 10, ALONE)


def test_the_model_is_in_evaluation_mode_and_then_restored(digits: Split) -> None:
    model = nn.Sequential(nn.Dropout(0.9), nn.Flatten(), nn.Linear(64, 10))
    once, again = (evaluate(model, config_of(digits, WholeImage()), ALONE) for _ in range(2))
    assert once == again
    assert model.training


@pytest.mark.parametrize(("num_images", "world_size"), [(23, 3), (2, 4)])
def test_written_predictions_are_those_counted(
    digits: Split, tmp_path: Path, num_images: int, world_size: int
) -> None:
    some = PartialSplit(digits, num_images)
    protocol = PROTOCOLS["crops"]
    metadata = PredictionMetadata(
        network="linear", training_data="digits", data="digits", data_digest="d", split="val",
        protocol="crops", weights_digest="w", run="run",
    )  # fmt: skip

    def written(path: Path, world_size: int) -> Predictions:
        workers = [Worker(rank, world_size, CPU) for rank in range(world_size)]
        writers = [PredictionWriter(path, num_images, worker) for worker in workers]
        for rank, writer in enumerate(writers):
            for scored in scored_by(config_of(some, protocol, 60), rank, world_size):
                writer.add(scored)
        return read_predictions(writers[0].join(some, (), metadata))  # type: ignore[arg-type]

    alone, together = written(tmp_path / "alone", 1), written(tmp_path / "together", world_size)
    assert replace(alone).digest == together.digest
    assert alone.counts == evaluate(Linear(), config_of(some, protocol), ALONE)
    assert alone.keys == digits.keys[:num_images]
    assert np.allclose(alone.probabilities.astype(float).sum(1), 1, atol=5e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "together"]


def test_more_than_32767_classes(digits: Split, tmp_path: Path) -> None:
    scores = torch.zeros(2, 40_000)
    scores[0, -1] = 1
    scored = ScoredImages(
        scores, scores.softmax(1), torch.tensor([39_999, 39_999]), torch.arange(2)
    )
    writer = PredictionWriter(tmp_path / "kept", 2, ALONE)
    writer.add(scored)
    metadata = PredictionMetadata(
        network="n", training_data="d", data="d", data_digest="d", split="val", protocol="whole",
        weights_digest="w", run="run",
    )  # fmt: skip
    some = PartialSplit(digits, 2)
    some.labels = scored.labels.numpy()
    kept = read_predictions(writer.join(some, (), metadata))  # type: ignore[arg-type]
    assert kept.ranks.tolist() == [0, 39_999]
    assert kept.guesses.tolist() == [[39_999, 0, 1, 2, 3], [0, 1, 2, 3, 4]]
    assert kept.counts == Counts(1, 1, 2)


def convolutional() -> nn.Module:
    """A small network that can be made fully convolutional."""
    torch.manual_seed(0)
    layers = {"conv": nn.Conv2d(1, 4, 3, 1, 1), "pool": nn.MaxPool2d(4), "flatten": nn.Flatten()}
    return nn.Sequential(OrderedDict(layers | {"fc": nn.Linear(16, 10)})).eval()


def test_dense_passes_and_crops_have_half_the_weight_each(digits: Split) -> None:
    """Each pass alone, then all together: the mean over two sides, and over that and the crops."""
    model, some = convolutional(), PartialSplit(digits, 7)

    def probabilities(protocol: TestProtocol) -> Tensor:
        scored = list(
            scored_images(model, config_of(some, protocol), ALONE, lambda batches: batches)
        )
        assert torch.cat([batch.indices for batch in scored]).tolist() == list(range(7))
        return torch.cat([batch.probabilities for batch in scored])

    dense, crops = Dense(resize=(8, 16)), Crops(resize=(10,), positions="center")
    sides = [probabilities(Dense(resize=(side,))) for side in dense.resize]
    assert (sides[0] - sides[1]).abs().max() > 1e-3
    torch.testing.assert_close(sides[0], probabilities(CenterCrop(resize=8, flip=True)))
    expected = (sides[0] + sides[1]) / 2
    torch.testing.assert_close(probabilities(dense), expected)
    both = probabilities(DenseAndCrops(dense=dense, crops=crops))
    torch.testing.assert_close(both, (expected + probabilities(crops)) / 2)


def test_scores_on_the_cpu_are_counted_on_a_gpu() -> None:
    """With tensors that have devices but no values: all but reading the sums is done."""
    scores = torch.eye(4)
    scored = ScoredImages(scores, scores.softmax(1), torch.arange(4), torch.arange(4))
    gpu = Worker(0, 1, torch.device("cuda", 0))
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        pytest.raises(DataDependentOutputException) as undone,
    ):
        count([scored], 4, gpu)
    assert undone.value.func is torch.ops.aten._local_scalar_dense.default


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(
    "protocol",
    [
        CenterCrop(resize=10, flip=True),
        Dense(resize=(8, 16)),
        DenseAndCrops(dense=Dense(resize=(8, 16)), crops=PROTOCOLS["crops"]),
    ],
)
def test_a_gpu_counts_the_same_as_a_cpu(
    digits: Split, tmp_path: Path, protocol: TestProtocol
) -> None:
    some, model = PartialSplit(digits, 50), convolutional()
    expected = evaluate(model, config_of(some, protocol), ALONE)
    gpu = Worker(0, 1, torch.device("cuda", 0))
    writer = PredictionWriter(tmp_path / "kept", len(some), gpu)
    found = evaluate(model.cuda(), config_of(some, protocol), gpu, on_scored=writer.add)
    assert found.images == 50
    assert abs(found.top1_hits - expected.top1_hits) <= 1  # rounding may turn one image
    assert found.metrics(10)["loss"] == pytest.approx(expected.metrics["loss"], rel=1e-2)
