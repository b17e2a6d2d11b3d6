"""Every diff of docs/adding.md applies to the project, and what it adds works as the page shows."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, blocks, text_of

SECTIONS = dict(
    re.findall(r"^## (.*)\n((?:(?!^## ).*\n?)*)", text_of("docs/adding.md"), re.MULTILINE)
)
CODE = ("pipeline", "benchmarks", "configs", "docker", "jobs", "tests", "docs")
FILES = ("pyproject.toml", "constraints.txt", "README.md", "Makefile")


@pytest.mark.parametrize("section", SECTIONS)
def test_what_a_section_adds_works(section: str, tmp_path: Path) -> None:
    clone, here = tmp_path / "clone", tmp_path / "here"
    here.mkdir()
    for name in CODE:
        caches = shutil.ignore_patterns("__pycache__", "secrets")
        shutil.copytree(ROOT / name, clone / name, symlinks=True, ignore=caches)
    for name in FILES:
        shutil.copy(ROOT / name, clone)
    shown = blocks(SECTIONS[section])
    assert shown[0].language == "diff"
    for block, after in zip(shown, [*shown[1:], None], strict=True):
        match block.language:
            case "diff":
                run(["git", "apply", "-"], clone, clone, block.text)
                assert run([*RUFF, "check", "-q", "."], clone, clone) == ""
                assert run([*RUFF, "format", "--check", "-q", "."], clone, clone) == ""
            case "python":
                assert after is not None
                assert run([sys.executable, "-c", block.text], clone, here) == after.text
            case "sh":
                for line in block.text.splitlines():
                    program, *arguments = shlex.split(line)
                    folder = clone if program == "pytest" else here
                    run([*PROGRAMS[program], *arguments], clone, folder)


RUFF = [str(Path(sys.executable).with_name("ruff"))]
PROGRAMS = {
    "ilsvrc": [sys.executable, "-m", "pipeline"],
    "pytest": [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
}


def run(command: list[str], clone: Path, folder: Path, given: str = "") -> str:
    """Run a command with the package of `clone`; return what it prints."""
    clean = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**clean, "PYTHONPATH": str(clone)},
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
