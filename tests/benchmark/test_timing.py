"""Turns and ratios: what is counted, in which order, against what."""

from types import SimpleNamespace

import pytest
import torch

from pipeline.benchmark import timing
from pipeline.benchmark.timing import Series, TimedTask, take_turns

CPU = torch.device("cpu")


def test_tasks_take_turns_round_by_round() -> None:
    taken: list[str] = []

    def task(name: str) -> TimedTask:
        while True:
            taken.append(name)
            yield 1

    rounds: list[tuple[int, int]] = []
    series = take_turns(
        {"a": task("a"), "b": task("b")}, 2, 0.0, CPU, lambda *done: rounds.append(done)
    )
    # A turn of no length is one batch of warm-up and one that counts; the first round is warm-up.
    assert "".join(taken) == "ab" + "aabb" * 2
    assert rounds == [(1, 3), (2, 3), (3, 3)]
    assert {name: len(one.values) for name, one in series.items()} == {"a": 2, "b": 2}


def test_tasks_that_prefetch_nothing_are_warmed_up_once() -> None:
    taken: list[str] = []

    def task(name: str) -> TimedTask:
        while True:
            taken.append(name)
            yield 1

    take_turns({"a": task("a"), "b": task("b")}, 2, 0.0, CPU, steady=("a",))
    assert "".join(taken) == "ab" + "abb" * 2


def test_a_rate_counts_the_images_of_its_turn_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now))

    def task() -> TimedTask:
        nonlocal now
        for images in (1000, 1000, 3, 5):  # warm-up twice, then 8 images in 2 seconds
            now += 1.0
            yield images

    (series,) = take_turns({"it": task()}, 1, 1.5, CPU).values()
    assert series.values == (4.0,)


def test_ratios_and_the_slower_pair_the_values_of_a_round() -> None:
    fast, slow = Series((10.0, 4.0, 9.0)), Series((5.0, 8.0, 3.0))
    assert fast.over(slow).values == (2.0, 0.5, 3.0)
    assert fast.slower(slow).values == (5.0, 4.0, 3.0)
    assert (fast.median, fast.lowest, fast.highest) == (9.0, 4.0, 10.0)
    # The median of the ratios, not the ratio of the medians.
    assert fast.over(slow).median == 2.0 != fast.median / slow.median
