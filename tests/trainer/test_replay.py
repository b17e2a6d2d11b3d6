"""A replayed step has the same images and the same loss, and shows what is wrong with it."""

from pathlib import Path

import pytest
import torch
from rich.console import Console
from small_jobs import MakeJob

from pipeline.launch.events import Event
from pipeline.launch.ray_train import run_on_workers
from pipeline.launch.training_job import TrainingJob
from pipeline.reports.replay_tables import replay_table
from pipeline.runtime.errors import TrainingStoppedError, UserError
from pipeline.tracking.mlflow_client import connect
from pipeline.trainer.replay import replay, replayable_steps
from pipeline.trainer.worker import train
from pipeline.training.checkpoint import checkpoints, load_checkpoint
from pipeline.training.step_inspection import InspectedImage, InspectedStep

SAVING_OFTEN = ["workers.count=0", "saving.log_every_steps=1", "saving.checkpoint_every_steps=4"]


def ignore(event: Event) -> None:
    pass


def replayed_step(job: TrainingJob, step: int) -> InspectedStep:
    return run_on_workers(
        lambda job, worker, report: replay(job, step, worker, report), job, ignore
    )


@pytest.mark.parametrize("kind", ["sgd", "diagonal-levenberg-marquardt"])
def test_a_replayed_step_has_the_tracked_loss(make_job: MakeJob, kind: str) -> None:
    optimizer = f"optimizer={{kind: {kind}, learning_rate: 0.002}}"
    job = make_job("run", ["epochs=2", optimizer], [*SAVING_OFTEN, "saving.checkpoints_to_keep=9"])
    run_on_workers(train, job, ignore)
    history = connect(job.tracking_uri).get_metric_history(
        job.folder.tracking_run_id(), "train/loss"
    )
    tracked = {metric.step: metric.value for metric in history}
    for step in (16, 24, 27, 30):
        replayed = replayed_step(job, step)
        assert replayed.loss == tracked[step]
        assert replayed.gradient_norm > 0
        losses = [image.loss for image in replayed.images]
        assert losses == sorted(losses, reverse=True)
        assert sum(losses) / len(losses) == pytest.approx(tracked[step], rel=1e-5)
        assert len({image.key for image in replayed.images}) == len(losses)
    assert replay_table(replayed).row_count == 10


def test_markup_in_a_key_is_printed_as_it_is() -> None:
    images = (InspectedImage("cats/photo[copy]", "cats [all]", 2.5),)
    console = Console(width=80)
    with console.capture() as shown:
        console.print(replay_table(InspectedStep(1, 0.1, 2.5, 1.0, images)))
    assert "cats/photo[copy]" in shown.get()
    assert "cats [all]" in shown.get()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (0, "has the steps 1 to 30"),
        (31, "has the steps 1 to 30"),
        (20, "leads to it any more; those that can run again: 1–15"),
    ],
)
def test_a_step_that_can_not_be_replayed_is_refused(
    make_job: MakeJob, step: int, message: str
) -> None:
    job = make_job("run", ["epochs=2"], SAVING_OFTEN)
    run_on_workers(train, job, ignore)
    with pytest.raises(UserError, match=message):
        replayed_step(job, step)


def test_a_missing_gpu_is_reported(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    job = make_job(cluster=["workers.count=0", "workers.device=gpu"])
    with pytest.raises(UserError, match="CUDA finds none here; use --on laptop"):
        replayed_step(job, 1)


def test_a_loss_that_is_not_finite_stops_the_training_and_is_never_saved(make_job: MakeJob) -> None:
    # A report that comes late all the same names the step, and nothing bad is saved before it.
    job = make_job(
        "run",
        ["epochs=2", "optimizer.learning_rate=1e30"],
        [*SAVING_OFTEN, "saving.log_every_steps=50"],
    )
    with pytest.raises(TrainingStoppedError, match=r"the loss is (nan|inf) at step [234] ") as stop:
        run_on_workers(train, job, ignore)
    step = int(str(stop.value).split("at step ")[1].split()[0])
    assert "learning rate 1e+30" in str(stop.value)
    for path in checkpoints(job.folder.checkpoints):
        weights = load_checkpoint(path, torch.device("cpu")).model.values()
        assert all(bool(each.isfinite().all()) for each in weights)
    replayed = replayed_step(job, step)
    assert not replayed.loss < float("inf")
    assert not replayed.images[0].loss < float("inf")


def test_the_steps_that_checkpoints_lead_to_are_named(tmp_path: Path) -> None:
    def steps(*names: str, from_scratch: bool = True) -> str:
        for name in names:
            (tmp_path / f"{name}.{'0' * 16}.pt").touch()
        return replayable_steps(tmp_path, 15, 4, from_scratch)

    assert steps(from_scratch=False) == "none"
    assert steps() == "1–15"
    assert steps("epoch-0002-step-000004") == "1–15, 35–45"
    assert steps("epoch-0002-step-000010", "epoch-0003-step-000000") == "1–15, 35–60"
    assert steps("epoch-0004-step-000000", from_scratch=False) == "35–60"
