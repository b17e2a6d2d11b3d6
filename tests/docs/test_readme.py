"""README.md: short, and its table of results says what recipes and published results say."""

import re

from pages import ROOT, text_of

from pipeline.config.recipe import load_recipe

ROWS = re.findall(
    r"^\| \[(\w+)\]\(configs/recipes/\1\.yaml\) \| (.*?) \| (.*?) \|",
    text_of("README.md"),
    re.MULTILINE,
)


def test_readme_is_read_in_a_few_minutes() -> None:
    assert len(text_of("README.md").splitlines()) <= 150


def test_imagenets_rows_come_first() -> None:
    data = [load_recipe(name).data.name for name, _, _ in ROWS]
    assert data[0] == "ilsvrc2012"
    assert data == sorted(data, key=lambda name: name != "ilsvrc2012")


def test_published_errors_and_protocols_are_those_of_the_recipes() -> None:
    assert len(ROWS) >= 10
    for name, protocol, published in ROWS:
        recipe = load_recipe(name)
        assert protocol.endswith(f"`{recipe.expect.protocol if recipe.expect else 'whole'}`")
        if published.startswith("none"):
            continue
        assert recipe.expect is not None
        errors = re.findall(r"[\d.]+", published.split(" (")[0])
        expected = (recipe.expect.top1_error, recipe.expect.top5_error)
        assert [float(error) for error in errors] == [e for e in expected if e is not None], name


def test_the_picture_is_small_enough_to_be_loaded_at_once() -> None:
    assert (ROOT / "docs" / "images" / "report.png").stat().st_size < 300_000
