"""`python -m benchmarks.fault_tolerance`: it runs from a clone, as a command of its own."""

import subprocess
import sys

import pytest

from pipeline.submit.working_tree import PROJECT


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.fault_tolerance", *arguments],
        cwd=PROJECT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip


def test_an_unknown_recipe_is_one_line_and_exit_code_2() -> None:
    done = run("lenet6")
    assert done.returncode == 2
    assert done.stderr.startswith("ilsvrc: no recipe 'lenet6'")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_steps_checkpoints_and_a_death_are_measured() -> None:
    done = run("smoke", "--runs", "1", "--seconds", "0.1")
    assert done.returncode == 0, done.stderr
    for words in ("Protection of lenet5_modern, 1 rounds", "copying a checkpoint", "in all"):
        assert words in done.stdout
