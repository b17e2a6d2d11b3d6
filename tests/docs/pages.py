"""The pages of the documentation as the tests read them: texts, code blocks, commands."""

import json
import re
import shlex
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += NOTEBOOKS
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of code: its language, "" where none is named, its text, its first line."""

    language: str
    text: str
    line: int


def text_of(name: str) -> str:
    """Return a page's text; of a notebook its own, code in blocks, without outputs."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if not name.endswith(".ipynb"):
        return text
    parts = (
        "".join(cell["source"]) if cell["cell_type"] == "markdown" else
        f"```python\n{''.join(cell['source'])}\n```"
        for cell in json.loads(text)["cells"]
    )  # fmt: skip
    return "\n\n".join(parts) + "\n"


def blocks(text: str) -> list[Block]:
    return [
        Block(found[2], found[3], 2 + text.count("\n", 0, found.start()))
        for found in _BLOCK.finditer(text)
    ]


def without_blocks(text: str) -> str:
    return _BLOCK.sub("", text)


def shell_commands(text: str) -> list[list[str]]:
    """Return the commands of a page's shell blocks as words, comments and outputs left out."""
    found = []
    for block in blocks(text):
        if block.language not in ("", "sh", "console"):
            continue
        lines = block.text.replace("\\\n", " ").splitlines()
        if block.language == "console":  # but for commands that are shown with their error
            lines = [
                line.removeprefix("$ ")
                for line, after in zip_longest(lines, lines[1:], fillvalue="")
                if line.startswith("$ ") and not after.startswith("ilsvrc: ")
            ]
        for line in lines:
            found += [
                shlex.split(part)
                for part in re.split(r"\s&&\s", line.partition("  #")[0].strip())
                if re.match(r"(ilsvrc|make|python|pytest|\S*/pytest|\S*/python|OMP\S*) ", part)
            ]
    return found
