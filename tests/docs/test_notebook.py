"""The notebook of the documentation: its cells run, and show what is stored in it."""

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pages import NOTEBOOKS

NOTEBOOK = NOTEBOOKS[0]
VARIES = "varies"  # the tag of a cell whose text depends on the processor


def shown(cell: Any, mime_types: tuple[str, ...]) -> list[dict[str, str]]:
    """Return a cell's outputs in some of their forms, printed text as plain text."""
    found = []
    for output in cell["outputs"]:
        data = output.get("data", {"text/plain": output.get("text", "")})
        found.append({name: "".join(data[name]) for name in mime_types if name in data})
    return found


@pytest.mark.timeout(900)
def test_the_cells_show_what_is_stored(
    execute_notebook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    stored = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    again = execute_notebook.execute(NOTEBOOK, tmp_path)["cells"]
    pictures = 0
    for before, after in zip(stored, again, strict=True):
        if before["cell_type"] == "markdown":
            continue
        kinds = [sorted(output.get("data", ())) for output in after["outputs"]]
        assert kinds == [sorted(output.get("data", ())) for output in before["outputs"]]
        pictures += sum("image/png" in kind for kind in kinds)
        if VARIES not in before["metadata"].get("tags", ()):
            text = ("text/plain", "text/html")
            assert shown(after, text) == shown(before, text), before["source"]
    assert pictures >= 6


def test_it_is_small_and_tells_nothing_of_the_machine_that_ran_it() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 500_000
    notebook = json.loads(text)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    assert not any(output.get("name") == "stderr" for output in outputs)
    without_pictures = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not re.search(r"/(home|tmp|root|work)/|20\d\d-\d\d-\d\d", without_pictures)


def test_every_output_is_on_its_page(generate: ModuleType) -> None:
    page, pictures = generate.notebook_page(NOTEBOOK)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", ())]
    assert len(pictures) == sum("image/png" in data for data in outputs)
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())
    assert re.findall(r"!\[.+?\]\((.*?)\)", page) == list(pictures)
    assert page.count("<table>") == sum("text/html" in data for data in outputs)
    assert "ln 1000 = 6.91, the first loss 7.3" in page
    assert 'href="notebook.ipynb"' in page
    linked = generate.on_page_markdown("[a](use/notebook.ipynb) [b](notebook.ipynb#how-it-starts)")
    assert linked == "[a](use/notebook.md) [b](notebook.md#how-it-starts)"
