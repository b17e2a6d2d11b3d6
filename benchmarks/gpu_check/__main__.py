"""What a GPU computes and how fast, on a machine with torch and this clone alone.

python -m benchmarks.gpu_check

Prints a JSON line a result, then a table. Needs neither Ray nor MLflow; what loads by DALI is left
out where DALI can't be imported. Exits with 1 if something that must hold doesn't.
"""

import argparse
import json
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch._dynamo  # here once, which takes seconds, and not in each section's process

from benchmarks.gpu_check.decoding import decoding_cases
from benchmarks.gpu_check.loading import overwrite_cases, speed_cases
from benchmarks.gpu_check.machine import machine_cases
from benchmarks.gpu_check.passes import compiled_pass_cases, pass_cases
from benchmarks.gpu_check.sections import Outcome, Section, Setting, run_sections, table
from benchmarks.gpu_check.together import together_cases
from benchmarks.gpu_check.training import marked_cases, training_cases

# In order of value. The limits are for an H100, and together more than the whole may take.
SECTIONS = (
    Section("machine", machine_cases, 60),
    Section("A training", training_cases, 90),
    Section("A tests", marked_cases, 90),
    Section("B passes", pass_cases, 80),
    Section("C overwriting", overwrite_cases, 30, needs_dali=True),
    Section("D pictures", decoding_cases, 60, needs_dali=True),
    Section("E loading", speed_cases, 60, needs_dali=True),
    Section("F together", together_cases, 80, needs_dali=True),
    Section("B compiled", compiled_pass_cases, 240),
)


def main() -> None:
    """Run the sections that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--small", action="store_true", help="see that the check itself runs")
    parser.add_argument("--seconds", type=float, default=360, help="of all sections")
    parser.add_argument("--only", nargs="+", metavar="LETTER", help="of the sections A to F")
    given = parser.parse_args()
    chosen = [each for each in SECTIONS if not given.only or each.name[0] in [*given.only, "m"]]
    outcomes: list[Outcome] = []
    with TemporaryDirectory(prefix="gpu-check-") as folder:
        setting = Setting(
            torch.device("cuda", 0) if given.device == "gpu" else torch.device("cpu"),
            given.small,
            Path(folder),
            has_dali=_has_dali(),
        )
        for outcome in run_sections(chosen, setting, given.seconds):
            outcomes.append(outcome)
            print(json.dumps(asdict(outcome), ensure_ascii=False), flush=True)
            if outcome.case == "versions" and outcome.verdict == "ERROR":
                break  # no such device: its reason is said above
    print(table(outcomes))
    sys.exit(any(outcome.verdict in ("FAILS", "ERROR") for outcome in outcomes))


def _has_dali() -> bool:
    return find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None


if __name__ == "__main__":
    main()
