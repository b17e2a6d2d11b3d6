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
    assert expectation_line(recipe, "ilsvrc2012", AS_EXPECTED) == line
    kaggles = replace(AS_EXPECTED, training_data="ilsvrc2012-unverified")
    assert expectation_line(recipe, "ilsvrc2012", kaggles) == line
    for data in ("ilsvrc2012-subset", "photos"):
        other = replace(AS_EXPECTED, training_data=data)
        assert expectation_line(recipe, "ilsvrc2012", other) is None
    other = replace(AS_EXPECTED, protocol="center-64-64")
    assert expectation_line(recipe, "ilsvrc2012", other) is None
    without = recipe.model_copy(update={"expect": None})
    assert expectation_line(without, "ilsvrc2012", AS_EXPECTED) is None
