"""Whole trainings, in this process and on two Ray workers: exact, resumable, tracked once."""

import hashlib
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from small_jobs import MakeJob, tracked_losses

from pipeline.config.cluster import load_cluster
from pipeline.config.recipe import load_recipe
from pipeline.evaluation.predictions import kept_predictions, read_predictions
from pipeline.launch.events import Event, StepsReport, ValidationReport, WorkerSpeed, WorkerStarted
from pipeline.launch.ray_train import run_on_workers
from pipeline.launch.training_job import TrainingJob
from pipeline.runtime.errors import TrainingStoppedError, UserError
from pipeline.tracking.measured_runs import measured_from_runs
from pipeline.tracking.mlflow_client import connect
from pipeline.tracking.queries import evaluated_runs, tracked_run
from pipeline.trainer.driver import conclude, run_training
from pipeline.trainer.worker import train
from pipeline.training.checkpoint import checkpoints, load_checkpoint

SECOND_ORDER = "optimizer={kind: diagonal-levenberg-marquardt, learning_rate: 0.002}"
FROZEN = ["freeze_until=layers.3", "optimizer.head_rate=5", "averaging={decay: 0.9}"]
IN_PROCESS = ["workers.count=0", "saving.checkpoint_every_steps=3", "saving.log_every_steps=1"]


def weights(job: TrainingJob) -> dict[str, torch.Tensor]:
    return load_file(job.folder.weights)


def largest_difference(first: TrainingJob, second: TrainingJob) -> float:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


class SimulatedCrashError(Exception):
    pass


def train_until(job: TrainingJob, num_reports: int) -> None:
    """Train and die in the middle, right after the given number of step reports."""
    left = num_reports

    def report(event: Event) -> None:
        nonlocal left
        left -= isinstance(event, StepsReport)
        if left == 0:
            raise SimulatedCrashError

    with pytest.raises(SimulatedCrashError):
        run_on_workers(train, job, report)


def ignore(event: Event) -> None:
    pass


@pytest.mark.parametrize(
    "more",
    [[], ["averaging={decay: 0.9}"], [SECOND_ORDER], FROZEN],
    ids=["plain", "averaged", "second-order", "frozen"],
)
def test_a_resumed_training_is_bit_identical(make_job: MakeJob, more: list[str]) -> None:
    undisturbed = make_job("undisturbed", ["epochs=2", *more], IN_PROCESS)
    run_on_workers(train, undisturbed, ignore)
    disturbed = make_job("disturbed", ["epochs=2", *more], IN_PROCESS)
    for num_reports in (5, 1, 16):  # between checkpoints, right after one, in the second epoch
        train_until(disturbed, num_reports)
    events: list[Event] = []
    run_on_workers(train, disturbed, events.append)
    assert largest_difference(undisturbed, disturbed) == 0
    steps = [event for event in events if isinstance(event, StepsReport)]
    assert (steps[0].epoch, steps[0].step) > (0, 1)  # it did go on, not start again


def test_a_training_killed_before_its_weights_are_written_is_evaluated_again(
    make_job: MakeJob,
) -> None:
    job = make_job("run", ["epochs=1"], IN_PROCESS)
    counts = run_on_workers(train, job, ignore)
    (predictions,) = kept_predictions(job.folder.path)
    before = read_predictions(predictions).digest
    predictions.unlink()
    job.folder.weights.unlink()
    assert run_on_workers(train, job, ignore) == counts
    assert read_predictions(predictions).digest == before


def test_the_same_seed_gives_the_same_weights_and_another_does_not(make_job: MakeJob) -> None:
    jobs = [
        make_job(f"{number}", [f"seed={seed}", "epochs=1"], IN_PROCESS)
        for number, seed in enumerate((3, 3, 4))
    ]
    for job in jobs:
        run_on_workers(train, job, ignore)
    assert largest_difference(jobs[0], jobs[1]) == 0
    assert largest_difference(jobs[0], jobs[2]) > 1e-3


def test_loading_by_dali_and_by_pil_gives_the_same_losses(make_job: MakeJob) -> None:
    # DALI and PIL differ by fractions of a grey level, which the losses must hardly notice.
    losses = []
    for backend in ("dali", "reference"):
        job = make_job(backend, ["epochs=1"], [*IN_PROCESS, f"loading.backend={backend}"])
        events: list[Event] = []
        run_on_workers(train, job, events.append)
        losses.append([event.loss for event in events if isinstance(event, StepsReport)])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.parametrize("more", [[], [SECOND_ORDER]], ids=["plain", "second-order"])
def test_two_ray_workers_compute_the_same_steps_as_one(
    make_job: MakeJob, ray_session: None, more: list[str]
) -> None:
    alone = make_job("alone", ["epochs=2", *more], IN_PROCESS)
    expected = run_on_workers(train, alone, ignore)
    # Its four micro-batches a worker in passes of three and of one.
    at_once = "compute.images_at_once=24"
    together = make_job("together", ["epochs=2", *more], ["workers.count=2", at_once])
    events: list[Event] = []
    counts = run_on_workers(train, together, events.append)
    # The same sums in another order: rounding of float32 over some thirty steps.
    assert largest_difference(alone, together) < 1e-4
    assert abs(counts.top1_hits - expected.top1_hits) <= 2
    assert counts.images == expected.images == 899
    evaluated = [event for event in events if isinstance(event, ValidationReport)]
    assert [event.epoch for event in evaluated] == [1, 2]
    assert evaluated[-1].counts == counts
    (kept,) = map(read_predictions, kept_predictions(together.folder.path))
    assert (kept.hits(1), kept.hits(5), len(kept)) == (counts.top1_hits, counts.top5_hits, 899)
    digest = hashlib.sha256(together.folder.weights.read_bytes()).hexdigest()
    assert (kept.metadata.run, kept.metadata.weights_digest) == ("together", digest)
    assert {event.rank for event in events if isinstance(event, WorkerStarted)} == {0, 1}
    assert [step for step, _ in tracked_losses(together)] == [15, 30]  # by the first worker alone
    speeds = [event for event in events if isinstance(event, WorkerSpeed)]
    assert {speed.rank for speed in speeds} == {0, 1}
    assert all(0 < speed.waiting_seconds < speed.step_seconds for speed in speeds)


def test_a_complete_run_is_not_trained_again_nor_with_another_recipe(
    workspace: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    recipe = load_recipe("smoke", ["epochs=1"])
    cluster = load_cluster("laptop", ["workers.count=0", "tracking.experiment=complete"])
    result = run_training(recipe, "smoke", cluster, "mine", Console(quiet=True))
    assert result is not None
    measured = measured_from_runs([tracked_run(tracking_uri, result.folder.tracking_run_id())])
    conclude(result, tracking_uri, measured, "| result |")
    before = {path: path.stat().st_mtime_ns for path in result.folder.path.rglob("*")}
    assert run_training(recipe, "smoke", cluster, "mine", Console(quiet=True)) is None
    other = load_recipe("smoke", ["epochs=2"])
    with pytest.raises(UserError, match=r"run 'mine' was made with epochs=1, not 2.*--run"):
        run_training(other, "smoke", cluster, "mine", Console(quiet=True))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (run,) = evaluated_runs(tracking_uri, "complete")
    assert run.status == "FINISHED"
    assert {"recipe.digest", "dataset.digest", "device", "version.torch"} <= run.tags.keys()
    assert {"mlflow.user", "mlflow.source.name"} <= run.tags.keys()
    note = run.tags["mlflow.note.content"]
    assert note.startswith(
        "`lenet5_modern` trained on digits for 1 epochs, seed 0.\n\n- top-1 error"
    )
    assert f"**{measured[0].errors[0]} %**" in note
    assert run.params["recipe.optimizer.learning_rate"] == "0.02"
    files = connect(tracking_uri).list_artifacts(run.run_id)
    assert {file.path for file in files} == {
        "comparison.md", "predictions", "recipe.yaml", "weights.safetensors",
    }  # fmt: skip


def test_old_checkpoints_are_deleted_and_the_last_is_kept(make_job: MakeJob) -> None:
    job = make_job("kept", ["epochs=2"], [*IN_PROCESS, "saving.checkpoints_to_keep=2"])
    run_on_workers(train, job, ignore)
    names = [path.name for path in checkpoints(job.folder.checkpoints)]
    assert len(names) == 2
    assert names[0].startswith("epoch-0002-step-000000")


def test_the_moving_average_is_saved_as_the_weights(make_job: MakeJob) -> None:
    plain = make_job("plain", ["epochs=1"], IN_PROCESS)
    averaged = make_job("averaged", ["epochs=1", "averaging={decay: 0.9}"], IN_PROCESS)
    for job in (plain, averaged):
        run_on_workers(train, job, ignore)
    assert largest_difference(plain, averaged) > 1e-3
    state = load_checkpoint(checkpoints(averaged.folder.checkpoints)[0], torch.device("cpu"))
    assert all(
        torch.equal(value, state.average[f"module.{name}"])
        for name, value in weights(averaged).items()
    )
    now = load_checkpoint(checkpoints(plain.folder.checkpoints)[0], torch.device("cpu"))
    assert all(torch.equal(value, state.model[name]) for name, value in now.model.items())


def test_a_flat_loss_stops_two_workers_without_retries(make_job: MakeJob) -> None:
    slow = ["optimizer.learning_rate=1e-9", "flat_loss_steps=10", "network.initialization=glorot"]
    job = make_job("flat", slow, ["saving.log_every_steps=5", "workers.max_failures=3"])
    events: list[Event] = []
    with pytest.raises(TrainingStoppedError, match="flat loss"):
        run_on_workers(train, job, events.append)
    steps = [event.step for event in events if isinstance(event, StepsReport)]
    assert steps == [5, 10]  # one attempt, not four


def test_a_staged_copy_is_read_in_place_of_the_data_set(make_job: MakeJob, tmp_path: Path) -> None:
    plain = make_job("plain", ["epochs=1"], IN_PROCESS)
    staged = make_job("staged", ["epochs=1"], [*IN_PROCESS, f"stage_to={tmp_path}/local"])
    for job in (plain, staged):
        run_on_workers(train, job, ignore)
    assert staged.store().folder.parent == tmp_path / "local"
    assert largest_difference(plain, staged) == 0


def test_a_resumed_training_with_growing_images_is_bit_identical(make_job: MakeJob) -> None:
    growing = [
        "network={name: resnet18, num_classes: 10}",
        "input.size=40",
        "augmentation={kind: none}",
        "resizing={start_size: 32, full_size_from: 1}",
        "batch={global_batch_size: 64, micro_batch_size: 64}",
        "epochs=2",
    ]
    cluster = [*IN_PROCESS, "saving.checkpoint_every_steps=6"]  # each is of 90 MB
    undisturbed = make_job("undisturbed", growing, cluster)
    run_on_workers(train, undisturbed, ignore)
    resumed = make_job("resumed", growing, cluster)
    train_until(resumed, num_reports=9)
    run_on_workers(train, resumed, ignore)
    assert largest_difference(undisturbed, resumed) == 0
