"""Print what a `pyproject.toml` depends on, with the extras named: one requirement a line.

It lets an image install the packages before it has the project's code, in a layer that stays.
"""

import sys
import tomllib
from pathlib import Path


def requirements(path: Path, extras: list[str]) -> list[str]:
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    return [*project["dependencies"], *(line for extra in extras for line in optional[extra])]


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]), sys.argv[2:])))
