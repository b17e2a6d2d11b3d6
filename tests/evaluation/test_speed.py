"""The cost of protocols, printed: `pytest -m slow tests/evaluation/test_speed.py`."""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from stored_predictions import predictions_of
from torch import Tensor, nn

from pipeline.data.loading.loader import Batch
from pipeline.evaluation.ensemble import ensemble
from pipeline.evaluation.evaluate import view_means
from pipeline.evaluation.passes import Pass
from pipeline.evaluation.predictions import read_predictions, write_predictions
from pipeline.models.fully_convolutional import fully_convolutional
from pipeline.models.zoo import NETWORKS

SIZE, ROUNDS = 224, 5
every_network = pytest.mark.parametrize("name", ["alexnet", "resnet18"])


def pictures(count: int, height: int = SIZE, width: int = SIZE) -> Tensor:
    images = torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))
    return images.contiguous(memory_format=torch.channels_last)


def network(name: str) -> nn.Module:
    return NETWORKS[name](num_classes=1000).eval().to(memory_format=torch.channels_last)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute in this thread alone, whose time doesn't depend on other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def ratios(first: Callable[[], object], second: Callable[[], object]) -> list[float]:
    """Return the time of `first` over that of `second`, in alternating rounds after a warm-up."""

    def seconds(run: Callable[[], object]) -> float:
        started = time.thread_time()
        run()
        return time.thread_time() - started

    return [seconds(first) / seconds(second) for _ in range(ROUNDS + 1)][1:]


def summary(what: str, found: list[float]) -> str:
    return f"\n{what}: {statistics.median(found):.2f} ({min(found):.2f}–{max(found):.2f})"


@pytest.mark.slow
@every_network
@torch.inference_mode()
def test_ten_crops_against_one(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    model, views = network(name), pictures(40)
    batch = Batch.of(views, torch.zeros(40), torch.arange(40))
    one, ten = Pass(iter(()), 40), Pass(iter(()), 8, boxes_per_image=5, flip=True)
    found = ratios(
        lambda: [view_means(model, batch, ten, False, "float32") for _ in range(5)],
        lambda: view_means(model, batch, one, True, "float32"),
    )
    with capsys.disabled():  # five times eight images against forty
        print(summary(f"{name}, network time of ten-crop ÷ center", found))


@pytest.mark.slow
@every_network
@torch.inference_mode()
def test_dense_by_shape_against_one_by_one(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    dense = fully_convolutional(network(name), SIZE)
    images = pictures(16, 256, 341)
    alone = torch.cat([dense(image[None]) for image in images])
    torch.testing.assert_close(dense(images), alone, rtol=1e-3, atol=1e-3 * float(alone.std()))
    found = ratios(lambda: [dense(image[None]) for image in images], lambda: dense(images))
    with capsys.disabled():
        print(summary(f"{name}, dense at 256, images/s of 16 at once ÷ one by one", found))


@pytest.mark.slow
def test_fifty_thousand_predictions_read_scored_and_averaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six files of 50,000 × 1000, by all threads: ILSVRC's validation split."""
    files = [tmp_path / f"{number}.safetensors" for number in range(6)]
    for number, file in enumerate(files):
        generator = torch.Generator().manual_seed(number)
        scores = torch.randn(50_000, 1000, generator=generator)
        labels = torch.randint(1000, (50_000,), generator=torch.Generator().manual_seed(7))
        write_predictions(predictions_of(scores, labels), file)
    torch.set_num_threads(os.cpu_count() or 1)

    def seconds(work: Callable[[], object]) -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    one = [seconds(lambda: read_predictions(files[0]).counts) for _ in range(ROUNDS)]
    six = [seconds(lambda: ensemble([read_predictions(f) for f in files])) for _ in range(ROUNDS)]
    with capsys.disabled():
        print(summary("seconds to read and score one file", one))
        print(summary("seconds to read six and average them", six))
