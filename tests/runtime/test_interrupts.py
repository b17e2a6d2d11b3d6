"""Ctrl-C, outside of an import and inside one."""

import importlib
import os
import signal
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
