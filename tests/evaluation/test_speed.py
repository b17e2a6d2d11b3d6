"""What the protocols cost, printed: `pytest -m slow tests/evaluation/test_speed.py`."""

import statistics
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from pipeline.data.loaders import Batch
from pipeline.evaluation.evaluate import view_means
from pipeline.evaluation.passes import Pass
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
    """So that the time of this thread, which other processes don't change, is all there is."""
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


def told(what: str, found: list[float]) -> str:
    return f"\n{what}: {statistics.median(found):.2f} ({min(found):.2f}–{max(found):.2f})"


@pytest.mark.slow
@every_network
@torch.inference_mode()
def test_ten_crops_against_one(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    model, views = network(name), pictures(40)
    batch = Batch(views, torch.zeros(40), torch.arange(40))
    one, ten = Pass(iter(()), 40), Pass(iter(()), 8, boxes_per_image=5, flip=True)
    found = ratios(
        lambda: [view_means(model, batch, ten, False, "float32") for _ in range(5)],
        lambda: view_means(model, batch, one, True, "float32"),
    )
    with capsys.disabled():  # five times eight images against forty
        print(told(f"{name}, network time of ten-crop ÷ center", found))


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
        print(told(f"{name}, dense at 256, images/s of 16 at once ÷ one by one", found))
