"""The metrics of a training that Prometheus reads, and the dashboard that draws them."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest

from pipeline.launch.events import StepsReport, WorkerSpeed, WorkerStarted
from pipeline.launch.prometheus import GAUGES, PrometheusMetrics

DASHBOARD = Path(__file__).parents[2] / "docker" / "grafana" / "ilsvrc.json"


def scraped() -> dict[str, float]:
    """Return this project's samples at this node's endpoint, by name and its own labels."""
    import ray

    port = ray.nodes()[0]["MetricsExportPort"]
    address = ray.nodes()[0]["NodeManagerAddress"]
    with urllib.request.urlopen(f"http://{address}:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    samples = {}
    for line in lines:
        if found := re.match(r"ray_(ilsvrc_\w+)\{(.*)\} (\S+)$", line):
            labels = dict(re.findall(r'(\w+)="(.*?)"', found[2]))
            ours = ",".join(labels[key] for key in ("run", "worker") if key in labels)
            samples[f"{found[1]}[{ours}]"] = float(found[3])
    return samples


@pytest.mark.usefixtures("ray_session")
def test_prometheus_reads_the_metrics_that_workers_report() -> None:
    metrics = PrometheusMetrics("mine")
    progress = StepsReport(2, 5, 30, 40, 1.5, 90.0, 50.0, 0.1, 2.5, 812.5, 4.0, 1.0)
    for event in (
        WorkerStarted(0),
        WorkerStarted(1),
        progress,
        WorkerSpeed(0, 0.25, 0.01, 0),
        WorkerSpeed(1, 0.25, 0.05, 7),
    ):
        metrics.update(event)
    metrics.update(WorkerStarted(0))  # again, after a failure
    expected = {
        "ilsvrc_images_per_second[mine]": 812.5,
        "ilsvrc_epoch[mine]": 2.75,
        "ilsvrc_restarts[mine]": 1.0,
        "ilsvrc_step_seconds[mine,0]": 0.25,
        "ilsvrc_step_seconds[mine,1]": 0.25,
        "ilsvrc_waiting_seconds[mine,0]": 0.01,
        "ilsvrc_waiting_seconds[mine,1]": 0.05,
        "ilsvrc_gpu_bytes[mine,0]": 0.0,
        "ilsvrc_gpu_bytes[mine,1]": 7.0,
    }
    deadline = time.monotonic() + 60
    while {name: scraped().get(name) for name in expected} != expected:
        assert time.monotonic() < deadline, scraped()
        time.sleep(0.5)
    assert {name.partition("[")[0] for name in expected} == set(GAUGES)


def test_the_dashboard_draws_every_gauge_and_nothing_else_of_ours() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    drawn = [name for panel in panels for target in panel["targets"]
             for name in re.findall(r"ray_(ilsvrc_\w+)", target["expr"])]  # fmt: skip
    assert set(drawn) == set(GAUGES)
    for panel in panels:
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
