"""The same bits where they are asked for, and a line where they can't be had."""

import os

import pytest
import torch
from torch import nn

from pipeline.runtime.determinism import computing_on
from pipeline.runtime.errors import UserError

CPU = torch.device("cpu")


def test_the_choice_of_algorithms_lasts_as_long_as_the_block() -> None:
    with computing_on(CPU, deterministic=True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
        with computing_on(CPU, deterministic=False):
            assert not torch.are_deterministic_algorithms_enabled()
            assert torch.backends.cudnn.benchmark
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark


def test_a_workers_gpu_is_the_current_one_and_cublas_is_told_before_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # restored afterwards
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    third = torch.device("cuda", 3)
    with computing_on(third, deterministic=False):
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with computing_on(third, deterministic=True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert chosen == [third, third]


def unpool() -> None:
    pooled, places = nn.MaxPool2d(2, return_indices=True)(torch.rand(1, 1, 4, 4))
    nn.MaxUnpool2d(2)(pooled, places)


def test_an_operation_without_a_deterministic_implementation_is_named() -> None:
    with computing_on(CPU, deterministic=False):
        unpool()
    line = "cluster.deterministic: max_unpooling2d_forward_out has no deterministic implementation"
    with pytest.raises(UserError, match=line), computing_on(CPU, deterministic=True):
        unpool()


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), computing_on(CPU, deterministic=True):
        torch.ones(2, 3) @ torch.ones(2, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_gives_the_same_gradients_twice() -> None:
    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1), nn.Conv2d(64, 64, 3), nn.AvgPool2d(3, stride=2),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
        ).to("cuda", memory_format=torch.channels_last)  # fmt: skip
        images = torch.rand(64, 3, 64, 64).cuda().to(memory_format=torch.channels_last)
        nn.functional.cross_entropy(network(images), torch.arange(64).cuda() % 10).backward()
        return [value.grad.clone() for value in network.parameters() if value.grad is not None]

    with computing_on(torch.device("cuda", 0), deterministic=True):
        first, second = gradients(), gradients()
    assert all(map(torch.equal, first, second))
