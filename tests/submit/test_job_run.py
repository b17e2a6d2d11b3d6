"""A job from its file to its verdict, on this machine: trainings, evaluations, an ensemble."""

import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from pipeline.cli.commands import app
from pipeline.config.cluster import Cluster, load_cluster
from pipeline.config.job import load_job
from pipeline.evaluation.predictions import Predictions, find_predictions, read_predictions
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.errors import InterruptedByUserError, UserError
from pipeline.tracking.mlflow_client import connect
from pipeline.tracking.queries import evaluated_runs, named_runs
from pipeline.trainer.job_evaluation import _interrupted_on_request

JOB = """\
# Two LeNets on the digits.
trainings:
  - {recipe: smoke, set: {epochs: 2}, seeds: [0, 1]}
evaluate: [center]
ensemble: [whole]
expect:
  - {network: SVC (γ = 0.001), training_data: digits, split: val, protocol: whole}
"""
HERE = ["--set", "cluster.workers.count=0"]


def ilsvrc(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)


@pytest.fixture
def job_file(workspace: Path) -> str:
    (workspace / "two.yaml").write_text(JOB)
    return "two.yaml"


def test_a_job_trains_evaluates_averages_and_compares_with_the_expected_results(
    job_file: str,
) -> None:
    done = ilsvrc("submit", job_file, "--on", "laptop", *HERE)
    assert done.exit_code == 0, done.output
    runs = [member.run for member in load_job(job_file).members]
    cluster = load_cluster("laptop")

    # The average of both networks' predictions, by the protocol of the job.
    first, second = (predictions(cluster, run, "whole").probabilities for run in runs)
    (folder,) = cluster.runs_dir.glob("ensemble-*")
    average = predictions(cluster, folder.name, "whole")
    assert average.metadata.ensemble_size == 2
    expected = (first.astype(np.float32) + second.astype(np.float32)) / 2
    np.testing.assert_allclose(average.probabilities, expected, atol=1e-3)

    # One line for each result that may not be held against what is expected, and why.
    for run in runs:
        assert re.search(
            rf"{run}, lenet5_modern on digits val by whole: [\d.]+ .*; 3\.11 in computed with "
            r"scikit-learn.*: not comparable, SVC \(γ = 0\.001\) instead of lenet5_modern",
            done.output,
        )

    # One run of MLflow for the job, over those of its trainings and the ensemble.
    tracking = cluster.tracking
    client = connect(tracking.uri)
    found = evaluated_runs(tracking.uri, tracking.experiment)
    parents = {run.name: run.tags.get("mlflow.parentRunId", "") for run in found}
    (job_run,) = {parents[run] for run in runs}
    assert client.get_run(job_run).info.run_name == "two"
    assert client.get_run(job_run).info.status == "FINISHED"
    assert "not comparable" in client.get_run(job_run).data.tags["mlflow.note.content"]
    assert parents[f"{folder.name} val whole"] == job_run
    assert {run.name for run in named_runs(found, ["two"])} == set(parents)
    evaluations = [run for run in found if run.parent]
    assert [run.name for run in evaluations] == [f"{run} val center-36-32" for run in runs[::-1]]
    with pytest.raises(UserError, match=r"there are: .*two"):
        named_runs(found, ["three"])

    # Submitted again, nothing is trained or evaluated a second time.
    written = {path: path.stat().st_mtime_ns for run in runs for path in files_of(cluster, run)}
    again = ilsvrc("submit", job_file, "--on", "laptop", *HERE)
    assert "epoch" not in again.output
    assert again.output.count("this training is complete") == 2
    assert written == {path: path.stat().st_mtime_ns for path in written}
    assert len(evaluated_runs(tracking.uri, tracking.experiment)) == len(found)
    for command in ("compare", "jobs list"):
        listed = ilsvrc(*command.split(), *(["two"] if command == "compare" else []))
        assert all(run in listed.output for run in runs)


def test_whichever_training_ends_last_concludes_the_job(job_file: str) -> None:
    first, second = (member.run for member in load_job(job_file).members)
    done = ilsvrc("jobs", "run", job_file, *HERE, "--run", second)
    assert "job two: the last of its 2 trainings concludes it" in done.output
    assert not list(Path("runs").glob("ensemble-*"))
    # A training that was there before the job belongs to it all the same.
    assert ilsvrc("train", "smoke", "--set", "epochs=2", *HERE).exit_code == 0
    done = ilsvrc("jobs", "run", job_file, *HERE, "--run", first)
    assert "this training is complete" in done.output
    assert "ensemble of 2" in done.output
    tracking = load_cluster("laptop").tracking
    found = named_runs(evaluated_runs(tracking.uri, tracking.experiment), ["two"])
    assert {first, second} < {run.name for run in found}


def test_an_evaluation_stops_at_the_runs_stop_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    threading.Timer(0.3, folder.stop_request.touch).start()
    with pytest.raises(InterruptedByUserError, match="goes on"), _interrupted_on_request(folder):
        time.sleep(60)


@pytest.mark.parametrize(
    ("option", "value"), [("--seeds", "0-3"), ("--set", "epochs=1"), ("--start-from", "mine")]
)
def test_options_that_belong_in_the_job_file_are_refused(
    job_file: str, option: str, value: str
) -> None:
    with pytest.raises(UserError, match=rf"{option} {value}: two\.yaml is a job; say it there"):
        ilsvrc("submit", job_file, "--on", "laptop", option, value)


def test_an_expected_result_that_is_not_published_is_refused(workspace: Path) -> None:
    text = JOB.replace("SVC (γ = 0.001)", "1-NN").replace("protocol: whole", "protocol: center")
    (workspace / "mine.yaml").write_text(text)
    with pytest.raises(
        UserError,
        match=r"nothing is published of 1-NN on digits val by center; "
        r"`ilsvrc published 1-NN` prints what is",
    ):
        ilsvrc("submit", "mine.yaml", "--on", "laptop")
    assert not Path("runs").exists()


def predictions(cluster: Cluster, run: str, protocol: str) -> Predictions:
    return read_predictions(find_predictions(cluster.runs_dir / run, "val", protocol))


def files_of(cluster: Cluster, run: str) -> list[Path]:
    folder = RunFolder(cluster.runs_dir / run)
    return [folder.weights, *(folder.path / "predictions").iterdir()]
