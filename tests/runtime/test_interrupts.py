"""Ctrl-C, outside of an import and inside one."""

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.runtime.interrupts import interrupt


@pytest.fixture(autouse=True)
def handled() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, interrupt)
    yield
    signal.signal(signal.SIGINT, before)


EXITING = """
import atexit, sys, time
atexit.register(lambda: (print("exiting", flush=True), time.sleep(60)))
from pipeline.cli.app import main
sys.argv = ["ilsvrc", "--help"]
main()
"""


def test_a_signal_while_the_command_exits_ends_it_without_a_word() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", EXITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout is not None
        next(line for line in command.stdout if line == "exiting\n")
        command.send_signal(signal.SIGINT)
        _, errors = command.communicate(timeout=50)
    assert (command.returncode, errors) == (-signal.SIGINT, "")


def test_a_signal_interrupts_at_once() -> None:
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_during_an_import_interrupts_when_that_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "outer_module.py").write_text("import inner_module\nDONE = inner_module.DONE\n")
    (tmp_path / "inner_module.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nDONE = True\n"
    )
    with pytest.raises(KeyboardInterrupt):
        importlib.import_module("outer_module")
    assert sys.modules.pop("outer_module").DONE
    assert sys.modules.pop("inner_module").DONE
