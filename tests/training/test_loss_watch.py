"""A training that learns nothing is stopped, and one that learns late is not."""

import math

import pytest

from pipeline.config.recipe import Recipe, load_recipe
from pipeline.runtime.errors import TrainingStoppedError
from pipeline.training.loss_watch import LossWatch

CHANCE = math.log(10)


def recipe(*more: str) -> Recipe:
    return load_recipe("smoke", ["flat_loss_steps=100", *more])


def test_a_loss_that_stays_at_chance_is_stopped_with_the_networks_hint() -> None:
    watch = LossWatch(recipe(), "try another start")
    watch.observe(50, CHANCE)
    with pytest.raises(TrainingStoppedError, match=r"flat loss: after 100 .*; try another start"):
        watch.observe(100, CHANCE * 0.995)


def test_one_look_below_chance_is_enough() -> None:
    watch = LossWatch(recipe(), "")
    watch.observe(50, CHANCE * 0.98)
    watch.observe(1000, CHANCE * 1.2)


def test_a_loss_of_ten_times_chance_is_stopped_after_something_was_learnt() -> None:
    watch = LossWatch(recipe("flat_loss_steps=null"), "")
    for step, loss in enumerate((CHANCE, CHANCE * 40, CHANCE * 0.5, CHANCE * 9.9), 1):
        watch.observe(step, loss)
    with pytest.raises(TrainingStoppedError, match=r"diverged: 25.* at step 200, chance is 2\.303"):
        watch.observe(200, CHANCE * 11)


def test_worse_than_guessing_is_not_told_as_guessing() -> None:
    watch = LossWatch(recipe(), "try another start")
    with pytest.raises(
        TrainingStoppedError, match=r"worse than guessing \(loss 50\.000.*lower opt"
    ):
        watch.observe(100, 50.0)


def test_a_training_that_goes_on_has_learnt_before() -> None:
    watch = LossWatch(recipe(), "", steps_done=100)
    watch.observe(150, CHANCE)
    with pytest.raises(TrainingStoppedError, match="diverged"):
        watch.observe(200, CHANCE * 11)


def test_null_never_stops() -> None:
    LossWatch(recipe("flat_loss_steps=null"), "").observe(10**6, CHANCE)


def test_lecuns_loss_has_no_chance_level() -> None:
    LossWatch(recipe("loss={kind: map}"), "").observe(1000, 100 * CHANCE)
