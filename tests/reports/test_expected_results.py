"""What a recipe expects is shown beside results that it is of, and no others."""

from dataclasses import replace

from pipeline.config.recipe import load_recipe
from pipeline.reports.expected_results import expectation_line
from pipeline.results.published import ResultKey

AS_EXPECTED = ResultKey("resnet18", "ilsvrc2012", "val", "center-256-224")


def test_an_expectation_is_of_its_data_and_protocol_alone() -> None:
    recipe = load_recipe("resnet18")
    line = (
        "expected by the recipe: top-1 error 30.43 %, top-5 error 10.76 % (center-256-224; "
        "fb.resnet.torch)"
    )
    assert expectation_line(recipe, recipe, AS_EXPECTED) == line
    kaggles = replace(AS_EXPECTED, training_data="ilsvrc2012-unverified")
    assert expectation_line(recipe, recipe, kaggles) == line
    for data in ("ilsvrc2012-subset", "photos"):
        other = replace(AS_EXPECTED, training_data=data)
        assert expectation_line(recipe, recipe, other) is None
    other = replace(AS_EXPECTED, protocol="center-64-64")
    assert expectation_line(recipe, recipe, other) is None
    without = recipe.model_copy(update={"expect": None})
    assert expectation_line(without, recipe, AS_EXPECTED) is None


def test_of_a_changed_recipe_it_is_said_whose_expectation_it_is() -> None:
    recipe = load_recipe("resnet18")
    seeded, shorter = load_recipe("resnet18", ["seed=7"]), load_recipe("resnet18", ["epochs=9"])
    line = expectation_line(recipe, seeded, AS_EXPECTED)
    assert line is not None
    assert line.startswith("expected by the recipe: top-1 error 30.43 %")
    changed = expectation_line(recipe, shorter, AS_EXPECTED)
    assert changed == line.replace("the recipe:", "the recipe as it is written:")
