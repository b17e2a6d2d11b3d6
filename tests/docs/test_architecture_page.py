"""docs/architecture.md against the real tree and the import contracts."""

import re
import tomllib

from pages import ROOT, blocks, text_of

PAGE = text_of("docs/architecture.md")


def test_every_file_of_the_package_has_one_line_of_the_tree() -> None:
    listed: list[str] = []
    room = ""
    for line in tree().splitlines():
        indent, name = re.match(r"( *)(\S+)", line).groups()  # type: ignore[union-attr]
        if name.endswith("/"):
            room = name
        else:
            listed.append(f"{room if indent else ''}{name}")
    real = [
        str(path.relative_to(ROOT / "pipeline"))
        for path in (ROOT / "pipeline").rglob("*")
        if path.is_file() and path.name != "__init__.py" and "__pycache__" not in path.parts
    ]
    assert sorted(listed) == sorted(real)


def test_every_line_of_the_tree_says_what_is_in_the_file() -> None:
    for line in tree().splitlines():
        assert re.match(r" *\S+  +\S", line), line
        assert len(line) <= 100


def test_the_rooms_are_those_of_the_import_contract() -> None:
    contracts = tomllib.loads(text_of("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    (layers,) = (one["layers"] for one in contracts if one["name"] == "Imports point down")
    shown = blocks(PAGE)[0].text.splitlines()
    rooms = [re.findall(r"\w+", re.split(r" {7,}", line)[0]) for line in shown]
    assert rooms == [re.findall(r"\w+", layer) for layer in layers if layer != "__main__"]


def tree() -> str:
    return next(block.text for block in blocks(PAGE) if "\n  recipe.py" in block.text)
