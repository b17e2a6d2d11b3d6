"""Every command that a page shows is one that can be typed."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from pages import NAMES, ROOT, shell_commands, text_of, without_blocks

from pipeline.cli.commands import app
from pipeline.cli.options import load_training
from pipeline.config.job import load_job
from pipeline.config.recipe import load_recipe

ROOT_COMMAND = typer.main.get_command(app)
RECIPES = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "configs/recipes").iterdir())]
CLUSTERS = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "configs/clusters").iterdir())]
PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9]*")


def parse(words: list[str]) -> Any:
    """Parse the words of an `ilsvrc` command, and run nothing; raises what the command raises."""
    context, command = None, ROOT_COMMAND
    name, *rest = words
    while hasattr(command, "commands"):
        context = command.make_context(name, rest, parent=context)
        name, command, rest = command.resolve_command(context, rest)
    return command.make_context(name, rest, parent=context)


def commands_of(name: str) -> list[list[str]]:
    if name.endswith((".md", ".ipynb")):
        return shell_commands(text_of(name))
    comments = re.findall(r"^#   (ilsvrc .*(?:(?<=\\)\n#.*)*)", text_of(name), re.MULTILINE)
    whole = [comment.replace("\\\n#", " ") for comment in comments]
    return [shlex.split(part) for line in whole for part in line.split(" && ")]


@pytest.mark.parametrize("name", [*NAMES, *RECIPES, *CLUSTERS])
def test_every_shown_command_parses_and_its_recipe_and_values_are_valid(name: str) -> None:
    for words in commands_of(name):
        if words[0] != "ilsvrc":
            continue
        given = parse(words).params
        if name == "docs/adding.md":  # its values are those of kinds that its diffs add
            continue
        document = given.get("recipe") or given.get("document") or ""
        cluster = "laptop" if PLACEHOLDER.fullmatch(given.get("on", "")) else given.get("on")
        if document.startswith("jobs/"):
            load_job(str(ROOT / document))
        elif document and not PLACEHOLDER.fullmatch(document):
            load_training(document, cluster or "laptop", given.get("set_"))


@pytest.mark.parametrize("name", NAMES)
def test_every_command_named_in_a_sentence_exists_with_its_options(name: str) -> None:
    for words in re.findall(r"`(ilsvrc [^`…]+)`", without_blocks(text_of(name))):
        _, *rest = shlex.split(words)
        if PLACEHOLDER.fullmatch(rest[0]):
            continue
        command = ROOT_COMMAND
        while hasattr(command, "commands") and rest:
            command = command.commands[rest.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= known | {"--help"}, words


@pytest.mark.parametrize("name", NAMES)
def test_every_target_module_and_test_that_is_run_exists(name: str) -> None:
    makefile = text_of("Makefile")
    text = text_of(name)
    for target in re.findall(r"\bmake ([a-z][a-z-]+)\b", text):
        if f"`make {target}" in text or re.search(rf"^(\$ )?make {target}", text, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for module in re.findall(r"python -m (benchmarks\.\w+)", text):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
    for path in re.findall(r"pytest (?:-\S+ (?:slow )?)*(tests/\S+)", text):
        assert (ROOT / path).exists(), path


def test_a_recipes_comment_counts_its_steps_right(generate: Any) -> None:
    for path in map(Path, RECIPES):
        text = text_of(str(path))
        (said,) = re.findall(r"^# (?:Measured.*)?Takes: [^(]*?([\d,]+) steps", text, re.MULTILINE)
        assert generate.num_steps(load_recipe(path.stem)) == int(said.replace(",", "")), path
