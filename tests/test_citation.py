"""How to cite the project: a valid file, of the version that is installed."""

import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

PROJECT = Path(__file__).parents[1]
CITATION = PROJECT / "CITATION.cff"


def test_the_citation_is_valid_and_of_the_projects_version() -> None:
    program = str(Path(sys.executable).with_name("check-jsonschema"))
    schema = ["--builtin-schema", "vendor.citation-file-format"]
    done = subprocess.run(
        [program, *schema, str(CITATION)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert yaml.safe_load(CITATION.read_text())["version"] == project["version"]
