"""In which precision workers compute, and by which algorithms."""

from dataclasses import replace

import pytest
from rich.console import Console
from small_jobs import MakeJob

from pipeline.config.protocol import WholeImage
from pipeline.data.store.store import store_folder
from pipeline.evaluation.predictions import kept_predictions, read_predictions
from pipeline.launch.events import Event, Message
from pipeline.launch.ray_train import run_on_workers
from pipeline.launch.training_job import TrainingJob
from pipeline.runs.evaluated_model import model_of_run
from pipeline.runtime import precision
from pipeline.tracking.mlflow_client import connect
from pipeline.tracking.mlflow_runs import experiment_id
from pipeline.trainer.evaluation_run import run_evaluation
from pipeline.trainer.replay import replay
from pipeline.trainer.worker import train

IN_PROCESS = ["workers.count=0", "saving.log_every_steps=1"]


def trained(job: TrainingJob) -> list[str]:
    """Train, and return the messages."""
    events: list[Event] = []
    run_on_workers(train, job, events.append)
    return [event.text for event in events if isinstance(event, Message)]


def test_without_bfloat16_all_is_computed_in_float32_said_and_recorded(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = make_job("plain", ["epochs=1"], IN_PROCESS)
    assert trained(plain) == []
    monkeypatch.setattr(precision, "computes_bfloat16", lambda device: False)
    job = make_job("asked", ["epochs=1", "precision=bfloat16"], IN_PROCESS)
    said = ["not every worker's device computes bfloat16: float32 is used"]
    assert trained(job) == said
    assert job.folder.weights.read_bytes() == plain.folder.weights.read_bytes()
    assert job.folder.recipe().precision == "bfloat16"
    run = connect(job.tracking_uri).get_run(job.folder.tracking_run_id())
    assert run.data.tags["precision"] == "float32"
    (file,) = kept_predictions(job.folder.path)
    assert read_predictions(file).metadata.precision == "float32"

    repeated = run_on_workers(
        lambda job, worker, report: replay(job, 1, worker, report), job, lambda event: None
    )
    history = connect(job.tracking_uri).get_metric_history(run.info.run_id, "train/loss")
    assert repeated.loss == min(history, key=lambda metric: metric.step).value


def test_an_evaluation_without_bfloat16_is_in_float32_too(
    make_job: MakeJob, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "computes_bfloat16", lambda device: False)
    cluster = [*IN_PROCESS, f"tracking.uri={tracking_uri}"]
    job = make_job("asked", ["epochs=1", "precision=bfloat16"], cluster)
    record = job.folder.record()
    assert record
    job.folder.write_record(replace(record, dataset_digest=job.store().digest))
    said = trained(job)
    (file,) = kept_predictions(job.folder.path)
    by_the_training = read_predictions(file)
    console = Console(width=200)
    data = store_folder(job.cluster, "digits")
    with console.capture() as shown:
        evaluated = run_evaluation(
            model_of_run(job.folder), job.folder, data, "val", WholeImage(), job.cluster, console
        )
    assert said[0] in shown.get()
    assert evaluated.metadata.precision == "float32"
    assert (evaluated.probabilities == by_the_training.probabilities).all()
    client = connect(tracking_uri)
    ours = f"tags.`mlflow.parentRunId` = '{record.tracking_run_id}'"
    (run,) = client.search_runs([experiment_id(client, tracking_uri, "ilsvrc")], ours)
    assert run.data.tags["precision"] == "float32"


def test_with_bfloat16_it_is_used(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "computes_bfloat16", lambda device: True)
    job = make_job("native", ["epochs=1", "precision=bfloat16"], IN_PROCESS)
    assert trained(job) == []
    run = connect(job.tracking_uri).get_run(job.folder.tracking_run_id())
    assert run.data.tags["precision"] == "bfloat16"


def test_deterministic_algorithms_change_nothing_on_a_cpu(make_job: MakeJob) -> None:
    usual = make_job("usual", ["epochs=1"], IN_PROCESS)
    deterministic = make_job("deterministic", ["epochs=1"], [*IN_PROCESS, "deterministic=true"])
    for job in (usual, deterministic):
        trained(job)
    assert usual.folder.weights.read_bytes() == deterministic.folder.weights.read_bytes()
