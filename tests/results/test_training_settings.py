"""What trainings differ in, by short names; nothing of what is the same."""

import pytest

from pipeline.config.recipe import Recipe, load_recipe
from pipeline.config.yaml import flatten
from pipeline.results.training_settings import (
    differing_settings,
    setting_names,
    training_settings,
)

TAGS = {"dataset.digest": 64 * "d"}


def params(recipe: Recipe) -> dict[str, str]:
    """Return what MLflow keeps of a recipe."""
    return {f"recipe.{key}": str(value) for key, value in flatten(recipe).items()}


def settings(*changes: str, recipe: str = "lenet5_digits", **tags: str) -> dict[str, str]:
    return training_settings(params(load_recipe(recipe, list(changes))), TAGS | tags)


def test_the_same_training_differs_in_nothing() -> None:
    assert differing_settings([settings(), settings()]) == []
    assert differing_settings([]) == []


def test_what_is_changed_differs_and_nothing_else_most_values_first() -> None:
    several = [settings("epochs=5", f"seed={seed}") for seed in range(3)]
    several.append(settings("epochs=5", "optimizer.learning_rate=0.01"))
    assert differing_settings(several) == ["seed", "optimizer.learning_rate"]
    assert differing_settings([*several, {}]) == ["seed", "optimizer.learning_rate"]


def test_what_follows_from_another_difference_is_left_out() -> None:
    # A schedule in steps has a list of epochs and a factor, which the other one lacks.
    steps = "schedule={kind: step, epochs: [2], factor: 0.1}"
    found = differing_settings([settings(), settings(steps)])
    assert found == ["schedule.kind", "schedule.warmup_epochs"]
    assert setting_names(found) == {
        "schedule.kind": "schedule", "schedule.warmup_epochs": "warmup epochs",
    }  # fmt: skip


def test_what_a_training_is_and_what_is_expected_of_it_are_no_settings() -> None:
    other = ("network.name=lenet5", "network.num_classes=3", "expect=null")
    assert differing_settings([settings(), settings(*other)]) == []


def test_another_data_set_is_told_by_its_name_alone() -> None:
    three = settings(**{"dataset.name": "three", "dataset.digest": 64 * "f"})
    assert differing_settings([settings(), three]) == ["data.name"]
    assert setting_names(["data.name", "data.digest"]) == {
        "data.name": "data", "data.digest": "data digest",
    }  # fmt: skip


@pytest.mark.parametrize("start", [{}, {"start.from": "mine", "start.digest": 64 * "e"}])
def test_other_weights_or_images_to_start_from_differ(start: dict[str, str]) -> None:
    began = settings(**{"start.from": "mine", "start.digest": 64 * "a", **TAGS})
    assert differing_settings([began, settings(**start)]) == ["start.from"]
    assert began["start.from"] == "mine (aaaaaaaa)"
    again = settings(**{"dataset.digest": 64 * "f"})
    assert differing_settings([settings(), again]) == ["data.digest"]


def test_names_that_two_settings_share_are_whole() -> None:
    names = setting_names(["augmentation.kind", "optimizer.kind", "start.from", "seed"])
    assert list(names.values()) == ["augmentation", "optimizer", "started from", "seed"]
    assert list(setting_names(["evaluation.resize", "augmentation.resize"]).values()) == [
        "evaluation resize", "augmentation resize",
    ]  # fmt: skip


def test_a_run_that_trained_nothing_has_no_settings() -> None:
    assert training_settings({"recipe.network.name": "resnet50"}, TAGS) == {}
