"""What a page asks of the tracking store: as much of many runs as of few."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from pipeline.config.cluster import Cluster, load_cluster
from pipeline.evaluation.metrics import Counts
from pipeline.reports.page import build_page
from pipeline.reports.page_data import MOST_DRAWN, ReportedRun, load_page_data
from pipeline.tracking.measured_runs import images_tag
from pipeline.tracking.mlflow_client import connect
from pipeline.tracking.mlflow_runs import finish_run, start_run


def record(uri: str, experiment: str, number: int) -> None:
    """Record so many trainings, each with an evaluation of its own."""
    from mlflow.entities import Metric

    client = connect(uri)
    values = Counts(700, 880, 899, micronats=450_000_000).metrics(10)
    params = {
        "recipe.network.name": "lenet5_modern",
        "recipe.network.num_classes": 10,
        "recipe.input.color": "gray",
        "recipe.input.size": 32,
        "recipe.input.dimensions": 2,
        "recipe.epochs": 2,
    }
    for i in range(number):
        run_id = start_run(
            uri, experiment, run_name=f"run-{i:03d}", params=params,
            tags={
                "dataset.name": "digits", "command": f"ilsvrc train smoke --set seed={i}",
                **images_tag("val", "whole", 899),
            },
        )  # fmt: skip
        metrics = [
            Metric(f"eval/val/whole/{name}", value, 0, step)
            for name, value in values.items()
            for step in (15, 30)
        ]
        metrics += [Metric("train/loss", 2 / step, 0, step) for step in range(1, 31)]
        client.log_batch(run_id, metrics=metrics)
        parent = {"mlflow.parentRunId": run_id, "evaluation.run": f"run-{i:03d}"}
        start_run(uri, experiment, run_name="val", params=params, tags=parent)
        finish_run(uri, run_id, "FINISHED")


@contextmanager
def statements() -> Iterator[list[str]]:
    """Collect the statements that any database is sent."""
    sent: list[str] = []

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return load_cluster("laptop", [f"runs_dir={tmp_path}/runs", f"data_dir={tmp_path}/data"])


def reported(uri: str, experiment: str, cluster: Cluster) -> tuple[list[ReportedRun], int]:
    with statements() as sent:
        return load_page_data(uri, experiment, None, cluster), len(sent)


def test_many_runs_need_no_more_queries_than_few_and_the_newest_are_drawn(
    tracking_uri: str, cluster: Cluster
) -> None:
    few, many = MOST_DRAWN + 1, 4 * MOST_DRAWN
    record(tracking_uri, "few-reported", few)
    record(tracking_uri, "many-reported", many)
    load_page_data(tracking_uri, "few-reported", None, cluster)  # MLflow asks more at first
    _, of_few = reported(tracking_uri, "few-reported", cluster)
    runs, of_many = reported(tracking_uri, "many-reported", cluster)
    assert of_many == of_few > MOST_DRAWN

    assert [run.name for run in runs] == [f"run-{i:03d}" for i in range(many)]
    assert [run.is_drawn for run in runs] == [i >= many - MOST_DRAWN for i in range(many)]
    for run in runs:
        assert len(run.history.metrics.get("train/loss", ())) == (30 if run.is_drawn else 0)
        assert [result.counts.top1_hits for result in run.results] == [700]

    # One of those drawn, beside one that isn't: every run has its result and its command.
    html = build_page("many-reported", runs[many - MOST_DRAWN - 1 : many - MOST_DRAWN + 1]).html
    assert "Drawn, with their cost, are the 1 newest of the 2 runs" in html
    for run, other in ((runs[-MOST_DRAWN - 1], False), (runs[-MOST_DRAWN], True)):
        assert f"seed={int(run.name[-3:])}</code>" in html
        legend = html[html.index('class="legend"') : html.index('class="panels"')]
        assert (run.name in legend) == other
    only = build_page("many-reported", runs[-1:])
    assert "Drawn, with their cost" not in only.html
    assert only.figures.keys() == {runs[-1].run.run_id}
