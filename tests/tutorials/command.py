"""The command `ilsvrc` in this process, as a person types it."""

import shlex
import sys

import pytest

from pipeline.cli.app import main


class Shell:
    """Runs commands in the working directory; returns what they print."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, command: str, exit_code: int = 0) -> str:
        """Run `command`, "ilsvrc …"; it must end with `exit_code`."""
        self._monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as end:
            main()
        printed = self._capsys.readouterr()
        assert end.value.code == exit_code, printed.err
        return printed.out + printed.err
