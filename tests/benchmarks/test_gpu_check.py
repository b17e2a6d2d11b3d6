"""`python -m benchmarks.gpu_check`: its frame, its pictures, and the whole of it on a CPU."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.gpu_check.pictures import write_encodings, write_pictures
from benchmarks.gpu_check.sections import (
    Case,
    Measured,
    Outcome,
    Section,
    Setting,
    run_sections,
    table,
)

ROOT = Path(__file__).parents[2]

# As on a machine that has nothing but torch and what this clone brings.
_BARE = """
import runpy, sys
for name in ("ray", "mlflow", "psutil", "scipy", "sklearn", "matplotlib", "rich", "typer"):
    sys.modules[name] = None
sys.argv = ["gpu_check", "--device", "cpu", "--small"]
runpy.run_module("benchmarks.gpu_check", run_name="__main__")
"""

forks = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def test_all_sections_run_on_a_cpu_without_ray_and_mlflow() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _BARE],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    outcomes = [Outcome(**json.loads(line)) for line in lines if line.startswith("{")]
    verdicts = {each.verdict for each in outcomes}
    assert verdicts == {"holds", "measured"}, done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
    letters = [each.section[0] for each in outcomes]
    assert list(dict.fromkeys(letters)) == ["m", *"ABCDEF"]
    assert lines[len(outcomes)].startswith("section")
    assert len(lines) == 2 * len(outcomes) + 1


@forks
def test_what_fails_hangs_or_dies_takes_nothing_else_down(tmp_path: Path) -> None:
    def die() -> Measured:
        os.kill(os.getpid(), signal.SIGKILL)
        return Measured({})

    def fail() -> Measured:
        raise ValueError("no such thing\nand more")

    outcomes = run(
        tmp_path,
        Section("fails", cases(fail, right), 30),
        Section("hangs", cases(right, hang, right), 1),
        Section("dies", cases(die, right), 30),
        Section("goes on", cases(right, wrong), 30),
    )
    assert [(each.section, each.case, each.verdict) for each in outcomes] == [
        ("fails", "fail", "ERROR"),
        ("fails", "right", "holds"),
        ("hangs", "right", "holds"),
        ("hangs", "hang", "ERROR"),
        ("dies", "die", "ERROR"),
        ("goes on", "right", "holds"),
        ("goes on", "wrong", "FAILS"),
    ]
    assert outcomes[0].figures == {"why": "ValueError: no such thing"}
    assert outcomes[3].figures == {"why": "ended after 1 s, the section's limit"}
    assert outcomes[4].figures == {"why": "its process ended with -9"}
    assert table(outcomes).splitlines()[2].split() == [
        "fails",
        "right",
        "holds",
        "0.0",
        "value",
        "1",
    ]


@forks
def test_a_section_whose_set_up_fails_is_an_error(tmp_path: Path) -> None:
    def broken(setting: Setting) -> Iterator[Case]:
        raise OSError("no pictures")
        yield Case("never", right)

    (outcome,) = run(tmp_path, Section("broken", broken, 30))
    assert (outcome.case, outcome.verdict) == ("set-up", "ERROR")


@forks
def test_what_cant_run_is_said(tmp_path: Path) -> None:
    loads = Section("loads", cases(right), 30, needs_dali=True)
    (no_dali,) = run(tmp_path, loads, has_dali=False)
    (no_time,) = run(tmp_path, loads, seconds=0)
    (cut,) = run(tmp_path, Section("hangs", cases(hang), 30), seconds=0.5)
    assert (no_dali.verdict, no_dali.figures) == ("skipped", {"why": "no DALI here"})
    assert (no_time.verdict, no_time.figures) == ("skipped", {"why": "the time is over"})
    assert (cut.verdict, cut.figures) == ("skipped", {"why": "the time is over"})


def test_pictures_are_jpegs_like_photographs(tmp_path: Path) -> None:
    split = write_pictures(tmp_path / "pictures", 8)
    data = split.encoded_batch(list(range(8)))
    assert 40_000 < sum(map(len, data)) / 8 < 150_000
    assert {min(size) < max(size) for size in split.sizes.tolist()} == {True}
    assert len({each.tobytes() for each in data}) == 8


def test_every_encoding_is_what_it_is_called(tmp_path: Path) -> None:
    split = write_encodings(tmp_path / "encodings")
    images = {
        key: Image.open(io.BytesIO(split.encoded(row).tobytes()))
        for row, key in enumerate(split.keys)
    }
    sampling = {key: image.layer[0][1:3] for key, image in images.items() if image.format == "JPEG"}
    assert sampling["4:2:0"] == (2, 2)
    assert sampling["4:2:2"] == (2, 1)
    assert sampling["4:4:4"] == (1, 1)
    assert sampling["4:1:1"] == (4, 1)
    assert images["progressive"].info["progressive"]
    assert (images["gray"].mode, images["cmyk"].mode, images["png"].format) == ("L", "CMYK", "PNG")
    for image in images.values():
        image.load()
        assert image.size == (500, 375)


def right() -> Measured:
    return Measured({"value": 1.0}, holds=True)


def hang() -> Measured:
    time.sleep(60)
    return Measured({})


def wrong() -> Measured:
    return Measured({"value": 2.0}, holds=False)


def cases(*functions: Callable[[], Measured]) -> Callable[[Setting], Iterator[Case]]:
    return lambda setting: (Case(function.__name__, function) for function in functions)


def run(
    folder: Path, *sections: Section, has_dali: bool = True, seconds: float = 60
) -> list[Outcome]:
    setting = Setting(torch.device("cpu"), small=True, folder=folder, has_dali=has_dali)
    return list(run_sections(sections, setting, seconds))
