"""A training whose loss stays at chance or diverges is stopped, and no other."""

import math

import pytest

from pipeline.config.recipe import Recipe, load_recipe
from pipeline.runtime.errors import TrainingStoppedError
from pipeline.training.loss_monitor import LossMonitor

CHANCE = math.log(10)


def recipe(*more: str) -> Recipe:
    return load_recipe("smoke", ["flat_loss_steps=100", *more])


def test_a_loss_at_chance_stops_the_training_with_the_networks_hint() -> None:
    monitor = LossMonitor(recipe(), "try another start")
    monitor.observe(50, CHANCE)
    with pytest.raises(TrainingStoppedError, match=r"flat loss: after 100 .*; try another start"):
        monitor.observe(100, CHANCE * 0.995)


def test_one_loss_below_chance_passes_the_flat_loss_check() -> None:
    monitor = LossMonitor(recipe(), "")
    monitor.observe(50, CHANCE * 0.98)
    monitor.observe(1000, CHANCE * 1.2)


def test_a_loss_of_ten_times_chance_stops_the_training_once_it_was_below() -> None:
    monitor = LossMonitor(recipe("flat_loss_steps=null"), "")
    for step, loss in enumerate((CHANCE, CHANCE * 40, CHANCE * 0.5, CHANCE * 9.9), 1):
        monitor.observe(step, loss)
    with pytest.raises(TrainingStoppedError, match=r"diverged: 25.* at step 200, chance is 2\.303"):
        monitor.observe(200, CHANCE * 11)


def test_a_flat_loss_above_chance_has_another_message() -> None:
    monitor = LossMonitor(recipe(), "try another start")
    with pytest.raises(
        TrainingStoppedError, match=r"worse than guessing \(loss 50\.000.*lower opt"
    ):
        monitor.observe(100, 50.0)


def test_a_resumed_training_has_passed_the_flat_loss_check() -> None:
    monitor = LossMonitor(recipe(), "", steps_done=100)
    monitor.observe(150, CHANCE)
    with pytest.raises(TrainingStoppedError, match="diverged"):
        monitor.observe(200, CHANCE * 11)


def test_without_flat_loss_steps_a_flat_loss_is_allowed() -> None:
    LossMonitor(recipe("flat_loss_steps=null"), "").observe(10**6, CHANCE)


def test_the_map_loss_is_not_checked() -> None:
    LossMonitor(recipe("loss={kind: map}"), "").observe(1000, 100 * CHANCE)
