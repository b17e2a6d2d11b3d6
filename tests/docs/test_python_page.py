"""The examples of docs/python.md run, and print what the page shows."""

import contextlib
import io
from pathlib import Path

import pytest
from pages import blocks, text_of

NAME = "docs/python.md"


def test_the_examples_print_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    page = [block for block in blocks(text_of(NAME)) if block.language]
    names: dict[str, object] = {}
    for example, shown in zip(page[::2], page[1::2], strict=True):
        assert (example.language, shown.language) == ("python", "text")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            # Lines are counted from the top of the page, for a traceback that shows them.
            lines = "\n" * (example.line - 1) + example.text
            exec(compile(lines, NAME, "exec"), names)
        assert printed.getvalue() == shown.text
