"""The page of a real training, as a file and in a real browser."""

import re
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from chromium import CHROMIUM, browser
from in_process_command import ilsvrc

from pipeline.evaluation.metrics import Counts
from pipeline.reports.learning_curves import MetricHistory
from pipeline.reports.page import build_page
from pipeline.reports.page_data import ReportedRun
from pipeline.results.measured import Measured
from pipeline.results.published import ResultKey
from pipeline.tracking.mlflow_client import connect
from pipeline.tracking.queries import Point, TrackedRun


@pytest.fixture(scope="module")
def folder(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with one short training, and its page."""
    place = tmp_path_factory.mktemp("reported")
    shutil.copytree(data_dir, place / "data")
    here = ["--set", "cluster.workers.count=0"]
    ilsvrc("train", "smoke", *here, "--set", "epochs=3", "--run", "mine", folder=place)
    ilsvrc("report", "ilsvrc", "--to", "out/report.html", folder=place)
    return place


def test_the_page_loads_nothing_and_runs_no_script(folder: Path) -> None:
    html = (folder / "out" / "report.html").read_text()
    assert "<script" not in html
    assert "@import" not in html
    for address in re.findall(r"""(?:src|href)=["']([^"']*)["']|url\(([^)]*)\)""", html):
        assert "".join(address).strip("\"'").startswith(("data:", "#")), address


def test_the_page_shows_the_results_and_figures_of_a_run(folder: Path) -> None:
    html = (folder / "out" / "report.html").read_text()
    (run,) = connect(f"sqlite:///{folder}/mlflow.db").search_runs(["1"])
    error = run.data.metrics["eval/val/whole/top1_error"]
    assert f"<strong>{error:.2f}</strong>" in html
    command = "ilsvrc train smoke --set cluster.workers.count=0 --set epochs=3 --run mine"
    assert f"<pre><code>{command}</code></pre>" in html
    assert run.data.tags["dataset.digest"][:16] in html
    assert html.count('<img src="data:image/png;base64,') >= 1  # the filters
    for title in ("Loss", "Top-1 error, %", "Images/s"):
        assert f">{title}</text>" in html
    day = f"{datetime.fromtimestamp(run.info.start_time / 1000, UTC):%Y-%m-%d}"
    assert html.count(f">digits val, whole; {day}</text>") >= 3
    # What makes no curve is said in words.
    assert "<dt>Learning rate</dt><dd>0.02 throughout</dd>" in html
    assert "digits val: 0.833 M-Ops, 61,706 parameters: accuracy " in html


def test_the_figures_are_artifacts_of_the_run(folder: Path) -> None:
    client = connect(f"sqlite:///{folder}/mlflow.db")
    (run,) = client.search_runs(["1"])
    names = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "pictures")}
    assert names >= {
        "curve-loss.svg", "curve-loss.png", "curve-top-1-error.svg", "filters.png",
        "operations-ilsvrc2012-val.svg",
    }  # fmt: skip
    assert not {name for name in names if "learning-rate" in name or "digits" in name}


def tracked(
    name: str = "mine",
    *,
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> TrackedRun:
    day = datetime(2026, 1, 2, tzinfo=UTC)
    return TrackedRun("f0", name, "FINISHED", day, params or {}, tags or {}, {})


def runs_section(run: TrackedRun, *evaluations: TrackedRun) -> str:
    html = build_page("mine", [ReportedRun(MetricHistory(run, {}, 0), [], evaluations)]).html
    return html[html.index('id="runs"') :]


def test_our_result_is_in_the_lectures_table_and_names_are_escaped() -> None:
    key = ResultKey("resnet152", "ilsvrc2012", "val", "center-256-224")
    params = {
        "recipe.input.color": "rgb", "recipe.input.size": "224", "recipe.input.dimensions": "2",
        "recipe.network.num_classes": "1000", "cluster.workers.count": "8",
    }  # fmt: skip
    name = "a<script>&run\u202e"
    run = tracked(name, params=params, tags={"command": f"ilsvrc train resnet152 --run '{name}'"})
    ours = Measured(key, Counts(38_480, 46_630, 50_000), name, "f0", "2026-01-02")
    smaller = ResultKey("resnet152", "ilsvrc2012", "val", "center-160-128")
    other = Measured(smaller, Counts(30_000, 40_000, 50_000), name, "f0", "2026-01-02")
    html = build_page("mine", [ReportedRun(MetricHistory(run, {}, 0), [ours, other])]).html
    lecture = html[html.index('id="lecture"') : html.index('id="operations"')]
    assert "<strong>23.04 / 6.74</strong>" in lecture
    assert '<span class="verdict reproduced">reproduced</span>' in lecture
    assert "40.00 / 20.00" not in lecture
    assert "not comparable with the nearest, 23.0 / 6.7" in html
    assert "1 run, 2 results" in html
    assert "<script" not in html
    assert "a&lt;script&gt;&amp;run" in html
    assert "\u202e" not in html
    assert 'id="curves"' not in html


def test_a_run_shows_its_command_and_those_of_its_evaluations_once_each() -> None:
    commands = ["ilsvrc train smoke --set seed=3", "ilsvrc evaluate mine --protocol whole"]
    run, evaluation = (tracked(tags={"command": command}) for command in commands)
    html = runs_section(run, evaluation, evaluation)
    assert f"<pre><code>{commands[0]}\n{commands[1]}</code></pre>" in html
    assert "No command" not in html


def test_a_run_without_a_command_shows_its_recipe() -> None:
    run = tracked(params={"recipe.network.name": "resnet18", "cluster.workers.count": "2"})
    html = runs_section(run, tracked(tags={"command": "ilsvrc evaluate mine"}))
    assert "<pre><code>ilsvrc evaluate mine</code></pre>" in html
    assert "No command was recorded for this run." in html
    assert "<pre><code>network.name: resnet18\n</code></pre>" in html
    assert "Its recipe" not in runs_section(tracked())


def test_a_run_with_a_varying_number_of_workers_shows_its_bounds_and_no_cost() -> None:
    workers = {"count": "None", "min": "1", "max": "2"}
    params = {f"cluster.workers.{key}": value for key, value in workers.items()}
    params |= {"recipe.batch.global_batch_size": "8", "recipe.epochs": "1"}
    run = tracked(params=params, tags={"device": "cpu"})
    metrics = {
        name: [Point(10, 1.0)] for name in ("train/images_per_second", "eval/val/whole/loss")
    }
    html = build_page("mine", [ReportedRun(MetricHistory(run, metrics, 0), [])]).html
    assert "<dt>Workers</dt><dd>1 to 2</dd>" in html
    assert "<dt>Cost" not in html


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_the_page_on_a_desk_and_a_phone_in_light_and_dark(
    folder: Path, tmp_path: Path
) -> None:
    address = (folder / "out" / "report.html").as_uri()
    backgrounds = set()
    with browser(tmp_path) as page:
        for width, height in ((1280, 900), (360, 740)):
            for dark in (False, True):
                page.open(address, width, height, dark=dark)
                backgrounds.add(
                    page.value("getComputedStyle(document.documentElement).backgroundColor")
                )
                assert page.value("document.documentElement.scrollWidth") <= width
                assert page.value("[...document.images].every(i => i.complete && i.naturalWidth)")
        assert page.complaints == []
        asked = {request.partition(":")[0] for request in page.requests}
        assert asked <= {"file", "data"}
        assert {r for r in page.requests if r.startswith("file:")} == {address}
    assert len(backgrounds) == 2
