"""Names in the package: a file or a class can be found by its name alone."""

import ast
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "pipeline"
FILES = [path for path in PACKAGE.rglob("*.py") if not path.name.startswith("__")]


def test_no_two_files_share_a_name() -> None:
    assert len(FILES) > 100
    counts = Counter(path.name for path in FILES)
    assert [name for name, count in counts.items() if count > 1] == []


def test_no_two_public_classes_share_a_name() -> None:
    counts = Counter(
        node.name
        for path in FILES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in counts.items() if count > 1] == []


def test_packages_are_empty_but_for_their_modules() -> None:
    assert [path for path in PACKAGE.rglob("__init__.py") if path.read_text()] == []
