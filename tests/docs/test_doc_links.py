"""Every link of the pages leads somewhere, and every file that they name is there."""

import re
from typing import Any

import pytest
from pages import NAMES, ROOT, text_of, without_blocks

TOP = ("pipeline", "benchmarks", "tests", "configs", "docker", "jobs", "docs")


def anchors(name: str, generate: Any) -> set[str]:
    """Return the anchors of a page's headings, as MkDocs and GitHub make them."""
    text = generate.on_page_markdown(text_of(name)) if name in FILLED else text_of(name)
    found = set()
    for heading in re.findall(r"^#+ (.*)$", without_blocks(text), re.MULTILINE):
        title, _, given = heading.partition(" {#")
        words = re.sub(r"[^\w\s-]", "", title.lower()).strip()
        found.add(given.rstrip("}") or re.sub(r"[\s-]+", "-", words))
    return found


FILLED = ("docs/recipes.md",)


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_to_a_file_and_to_a_heading_of_it(name: str, generate: Any) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(text_of(name))):
        assert not re.match(r"https?:|/", target), f"{target}: links stay inside the project"
        path, _, anchor = target.partition("#")
        if path == "index.md":  # the site's first page, made of this file
            path = "../README.md"
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), target
        if anchor:
            assert anchor in anchors(str(file.relative_to(ROOT)), generate), target


@pytest.mark.parametrize("name", NAMES)
def test_every_file_and_folder_named_in_a_sentence_is_there(name: str) -> None:
    for path in re.findall(r"`([\w./-]+/[\w./-]*)`", without_blocks(text_of(name))):
        if path.split("/")[0] in TOP and "NAME" not in path:
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", NAMES)
def test_every_module_that_is_named_is_there(name: str) -> None:
    text = without_blocks(text_of(name))
    for module in re.findall(r"\b(pipeline(?:\.[a-z_0-9]+)+)", text):
        path = ROOT / module.replace(".", "/")
        is_there = path.is_dir() or path.with_suffix(".py").is_file()
        assert is_there or path.parent.with_suffix(".py").is_file(), module
