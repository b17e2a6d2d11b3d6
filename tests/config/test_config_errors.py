"""No word of pydantic's reaches a user, whatever is wrong with a recipe or cluster."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.config.cluster import Cluster, load_cluster
from pipeline.config.config_errors import first_problem
from pipeline.config.recipe import Recipe, load_recipe
from pipeline.config.yaml import Section
from pipeline.runtime.errors import UserError

PYDANTIC = re.compile(
    r"[Ii]nput should|[Vv]alid (integer|number|string|boolean|list|tuple|dictionary)|[Ff]ield req"
    r"|[Uu]nable to|[Vv]alue error|type=|discriminator|known here"
)
WRONG = ("x", -1, 1.5, None, True, [1], {"a": 1}, {"kind": "x"}, {"kind:x": None}, [], [[1]], 10**9)


def leaves(content: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in content.items():
        found.append(f"{prefix}{key}")
        if isinstance(value, dict):
            found += leaves(value, f"{prefix}{key}.")
    return found


def changed(content: Any, path: str, value: object) -> Any:
    key, _, rest = path.partition(".")
    return {**content, key: changed(content[key], rest, value) if rest else value}


RECIPE = load_recipe("inception_v3").model_dump(mode="json")
CLUSTER = load_cluster("kuberay").model_dump(mode="json")


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize(("model", "content"), [(Recipe, RECIPE), (Cluster, CLUSTER)])
def test_every_wrong_value_is_said_in_plain_words(
    model: type[Section], content: dict[str, Any], value: object
) -> None:
    refused = 0
    for path in leaves(content):
        wrong = changed(content, path, value)
        try:
            model.model_validate(wrong)
        except ValidationError as error:
            said = first_problem(error, wrong)
            assert not PYDANTIC.search(said), said
            assert "\n" not in said
            refused += 1
    assert refused


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("epoch=3", "'epoch' is not a known key; did you mean `epochs`? there are: network, "),
        ("learning_rate=1", "did you mean `optimizer.learning_rate`?"),
        ("optimizer.kind=sdg", "'optimizer.kind': 'sdg' is not known; did you mean `sgd`?"),
        ("epochs=0", "'epochs': must be greater than 0, got 0"),
        ("epochs=2.5", "'epochs': must be a whole number, got 2.5"),
        ("precision=bf16", "did you mean `bfloat16`? there are: float32, bfloat16"),
        ("augmentation={kind:none}", "'augmentation': 'kind:none' has no space after the colon"),
        ("input.mean=3", "must be a list, as [1, 2], got 3"),
    ],
)
def test_a_wrong_override_says_what_mends_it(assignment: str, words: str) -> None:
    with pytest.raises(UserError) as refused:
        load_recipe("smoke", [assignment])
    assert words in str(refused.value)
