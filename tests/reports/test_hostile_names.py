"""Names that a browser, a terminal, Markdown or matplotlib would take for more than names."""

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from chromium import CHROMIUM, browser
from in_process_command import ilsvrc
from markdown_it import MarkdownIt
from mlflow.entities import Metric, Param
from PIL import Image

from pipeline.data.sources.digits import digits_samples
from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.packing import write_store
from pipeline.reports.comparison_tables import comparison_markdown
from pipeline.runtime.plain_text import markdown_code, printable_lines
from pipeline.tracking.measured_runs import measured_from_runs
from pipeline.tracking.mlflow_client import connect
from pipeline.tracking.queries import evaluated_runs

SCRIPT = "document.title='taken over'"
NAMES = (
    f"</style></script><script>{SCRIPT}</script>",
    f"<img src=x onerror={SCRIPT}>",
    f"\" onmouseover='{SCRIPT}' autofocus onfocus=\"{SCRIPT}",
    f"<svg/onload={SCRIPT}>",
    "&lt;b&gt; {{ 7 * 7 }} ${7*7}",
    "$x^{ $\\frac",
    "abc\u202efdp\u2066.exe\u2029",
    "\x1b[2J\x1b]0;taken over\x07\x9b31m",
    f"[link](javascript:{SCRIPT})![](https://example.org/x) `code` | **bold**",
    "[red]red[/red] \\[bold]",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set of hostile names, a run trained on it, and two more runs."""
    folder = tmp_path_factory.mktemp("hostile")
    splits = {
        split: (
            replace(sample, key=f"{number}-<img src=x onerror=alert(1)>\"'")
            for number, sample in enumerate(samples)
        )
        for split, samples in digits_samples(lambda done, total: None).items()
    }
    classes = tuple(ImageClass(index, name) for index, name in enumerate(NAMES))
    place = folder / "data" / NAMES[1]
    write_store(place, name=NAMES[1], classes=classes, splits=splits, source={})
    ilsvrc(
        "train", "smoke", "--set", "cluster.workers.count=0", "--set", "epochs=1", "--run", "mine",
        "--set", f"data.name={NAMES[1]}", folder=folder,
    )  # fmt: skip
    for name in (NAMES[0], NAMES[8]):
        copy_run(f"sqlite:///{folder}/mlflow.db", name)
    return folder


def copy_run(uri: str, name: str) -> None:
    """Record the first run's result again under a name that another program may give."""
    client, run = connect(uri), evaluated_runs(uri, "ilsvrc")[-1]
    experiment = client.get_run(run.run_id).info.experiment_id
    tags = {key: tag for key, tag in run.tags.items() if not key.startswith("mlflow.")}
    copy = client.create_run(experiment, tags=tags, run_name=name).info.run_id
    client.log_batch(
        copy,
        params=[Param(key, value) for key, value in run.params.items()],
        metrics=[
            Metric(key, value, 0, 1) for key, value in run.metrics.items() if key.endswith("_error")
        ],
    )


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_runs_nothing_of_a_name_and_shows_it_as_text(
    folder: Path, tmp_path: Path
) -> None:
    ilsvrc("report", "ilsvrc", "--to", "report.html", folder=folder)
    page_file = folder / "report.html"
    with browser(tmp_path) as page:
        page.open(page_file.as_uri(), 1280, 900)
        assert page.value("document.title") == "ilsvrc: ilsvrc report"
        assert page.value("document.scripts.length") == 0
        attributes = "[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames())"
        assert page.value(f"{attributes}.filter(name => name.startsWith('on'))") == []
        assert page.value("[...document.images].every(i => i.src.startsWith('data:'))")
        assert page.complaints == []
        text = page.value("document.body.textContent")
        shown = [name for name in NAMES if printable_lines(name) in text]
        assert len(shown) >= 8  # the four worst and the four best classes
        for name in (NAMES[0], NAMES[1]):  # the run's, and the data set's
            assert name in text
        assert printable_lines(text) == text


def test_a_terminal_gets_no_command_from_a_name(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    picture = folder / "\x1b[31m$x^{ \u202e.png"
    Image.new("L", (32, 32), 90).save(picture)
    here = ["--set", "cluster.workers.count=0"]
    for arguments in (
        ["predictions", "mine", "--count", "20"],
        ["compare"],
        ["predict", "mine", str(picture), "--top", "10", "--show", "shown.png", *here],
        ["doctor", f"data/{NAMES[1]}"],
    ):
        ilsvrc(*arguments, folder=folder)
        printed = "".join(capfd.readouterr())
        assert "<img src=x" in printed
        assert printable_lines(printed) == printed
    with Image.open(folder / "shown.png") as shown:
        assert shown.format == "PNG"


def test_markdown_shows_names_as_text(folder: Path) -> None:
    uri = f"sqlite:///{folder}/mlflow.db"
    runs = evaluated_runs(uri, "ilsvrc")
    note = runs[-1].tags["mlflow.note.content"]
    table = comparison_markdown(measured_from_runs(runs))
    code = markdown_code(f"ilsvrc train `<img>` ``{NAMES[8]}")
    assert "</style></script><script>" in text_of(table)
    for name, markdown in ((NAMES[1], note), (NAMES[8], table), (NAMES[8], code)):
        assert name in text_of(markdown)


def text_of(markdown: str) -> str:
    """Return the text of Markdown in which HTML is allowed; it may hold no tags and no links."""
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    tags = set(re.findall(r"<([a-z]+)", html))
    assert tags <= {"p", "ul", "li", "strong", "code", "table", "thead", "tbody", "tr", "th", "td"}
    return unescape(re.sub(r"<[^>]*>", "", html))
