"""Trainings and jobs on a real Slurm: two nodes, arrays, preemption, errors."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster
from small_jobs import had_the_same_images

from pipeline.config.cluster import load_cluster
from pipeline.runtime.errors import UserError
from pipeline.submit.job_engine import SubmittedJob
from pipeline.submit.slurm import SlurmJobs
from pipeline.submit.submit import find_job, read_job, read_trainings
from pipeline.submit.working_tree import PROJECT
from pipeline.tracking.queries import evaluated_runs, named_runs

pytestmark = pytest.mark.slurm


@pytest.fixture
def on_slurm(
    slurm: SlurmCluster, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[str]]:
    """Settings of the cluster `slurm` with one worker in the job's own process."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = {
        "workers": "{count: 0, device: cpu}", "engine.workers_per_node": 1,
        "engine.python": sys.executable, "engine.hours": 0.5, "engine.warning_seconds": 30,
        "data_dir": data_dir, "runs_dir": tmp_path / "runs", "saving.log_every_steps": 5,
        "tracking.uri": f"sqlite:///{tmp_path}/mlflow.db",
    }  # fmt: skip
    yield [f"{key}={value}" for key, value in settings.items()]
    slurm.ask("scancel", "--me")
    await_(lambda: not slurm.ask("squeue", "--noheader", "--states=R,CG"))


def jobs_of(of_cluster: list[str]) -> SlurmJobs:
    cluster = load_cluster("slurm", of_cluster)
    return SlurmJobs(cluster.engine, cluster)  # type: ignore[arg-type]


def submit(of_cluster: list[str], *of_recipe: str, seeds: tuple[int, ...] = ()) -> SubmittedJob:
    trainings = read_trainings("smoke", list(of_recipe), "slurm", of_cluster, list(seeds))
    return jobs_of(of_cluster).submit(trainings, "ilsvrc submit smoke …")[-1]


def test_a_preempted_training_saves_is_queued_again_and_goes_on(
    slurm: SlurmCluster, on_slurm: list[str], tmp_path: Path
) -> None:
    job = submit([*on_slurm, "engine.options={nodelist: n0}"], "epochs=30")
    log = tmp_path / "runs" / f"slurm-{job.id}.log"
    await_(lambda: log.exists() and "epoch 2/30" in log.read_text())
    important = ["--partition=high", "--nodelist=n0", "--exclusive", "--output=/dev/null"]
    slurm.ask("sbatch", *important, "--wrap=sleep 3")
    jobs = jobs_of(on_slurm)
    await_(lambda: state_of(job, jobs) == "waiting")
    begin_now(job, slurm)
    (step,) = re.findall(r"stopped as asked, after (\d+ epochs and \d+ steps)", log.read_text())

    words = "".join(jobs.logs(job, follow=True))  # to its end, in its second life
    assert f"goes on after {step}" in words
    assert "epoch 30/30  val (whole, 899 images)" in words
    assert state_of(job, jobs) == "finished"


def test_a_member_of_an_array_of_seeds_can_be_stopped(
    slurm: SlurmCluster, on_slurm: list[str], tmp_path: Path
) -> None:
    submit([*on_slurm, "engine.options={nodelist: n1}"], "epochs=300", seeds=(3, 7))
    jobs = jobs_of(on_slurm)
    second, first = jobs.jobs()[:2]
    assert (first.id.partition("_")[2], second.id.partition("_")[2]) == ("3", "7")
    assert first.run != second.run
    log = tmp_path / "runs" / f"slurm-{second.id}.log"
    await_(lambda: log.exists() and "epoch 1/300" in log.read_text())
    assert "saves" in jobs.stop(find_job(jobs, second.id))
    await_(lambda: state_of(second, jobs) == "stopped")
    assert "stopped as asked" in log.read_text()
    assert list((tmp_path / "runs" / second.run / "checkpoints").glob("*.pt"))
    jobs.stop(find_job(jobs, first.run))
    await_(lambda: state_of(first, jobs) == "stopped")


@pytest.mark.timeout(600)
def test_a_job_is_an_array_whose_last_training_makes_the_ensemble(
    slurm: SlurmCluster, on_slurm: list[str], tmp_path: Path
) -> None:
    """Both nodes train at the same time, and share one MLflow run of the job."""
    trainings = read_job(f"{PROJECT}/jobs/smoke.yaml", "slurm", on_slurm)
    jobs = jobs_of(on_slurm)
    submitted = jobs.submit(trainings, "ilsvrc submit jobs/smoke.yaml …")
    assert [job.id.partition("_")[2] for job in submitted] == ["0", "1"]
    await_(lambda: {state_of(job, jobs) for job in submitted} == {"finished"})
    words = ["".join(jobs.logs(job, follow=False)) for job in submitted]
    (last,) = [text for text in words if "ensemble of 2" in text]
    assert all(training.run in last for training in trainings)
    uri = load_cluster("slurm", on_slurm).tracking.uri
    found = named_runs(evaluated_runs(uri, "ilsvrc"), ["smoke"])
    assert len(found) == 2 + 2 + 1  # trainings, evaluations by `center`, the ensemble
    assert len({run.tags["mlflow.parentRunId"] for run in found if not run.parent}) == 1


def test_a_preempted_evaluation_is_queued_again_and_goes_on(
    slurm: SlurmCluster, on_slurm: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "one.yaml"
    file.write_text("{trainings: [{recipe: smoke, set: {epochs: 1}}], evaluate: [google-144]}\n")
    settings = [*on_slurm, "engine.options={nodelist: n0}", "loading.evaluation_batch_size=32"]
    jobs = jobs_of(settings)
    (job,) = jobs.submit(read_job(str(file), "slurm", settings), "ilsvrc submit one.yaml …")
    log = tmp_path / "runs" / f"slurm-{job.id}.log"
    await_(lambda: log.exists() and "144 views of each" in log.read_text())
    important = ["--partition=high", "--nodelist=n0", "--exclusive", "--output=/dev/null"]
    slurm.ask("sbatch", *important, "--wrap=sleep 1")
    await_(lambda: state_of(job, jobs) == "waiting")
    assert "the same command goes on with this evaluation" in log.read_text()
    begin_now(job, slurm)
    words = "".join(jobs.logs(job, follow=True))
    assert state_of(job, jobs) == "finished", words
    assert words.count("epoch 1/1  val") == 1  # the training was complete
    assert words.count("144 views of each") == 2


def test_slurms_refusal_is_shown_with_its_remedy(on_slurm: list[str]) -> None:
    with pytest.raises(UserError, match=r"sbatch says: .*set engine\.partition"):
        submit([*on_slurm, "engine.partition=nowhere"])
    assert "nowhere" not in str(jobs_of(on_slurm).jobs())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_nodes_compute_what_one_computes_preemption_included(
    slurm: SlurmCluster, on_slurm: list[str], tmp_path: Path, mlflow_server: str, data_dir: Path
) -> None:
    two = "workers={count: 2, device: cpu, ray_address: auto}"
    settings = [*on_slurm, two, f"tracking.uri={mlflow_server}", "saving.log_every_steps=1"]
    recipe = ["epochs=30", "optimizer.learning_rate=0.001"]
    job = submit(settings, *recipe)
    log = tmp_path / "runs" / f"slurm-{job.id}.log"
    await_(lambda: log.exists() and "epoch 2/30" in log.read_text())
    important = ["--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null"]
    slurm.ask("sbatch", *important, "--wrap=sleep 1")
    jobs = jobs_of(settings)
    await_(lambda: state_of(job, jobs) == "waiting")
    begin_now(job, slurm)
    words = "".join(jobs.logs(job, follow=True))
    assert "goes on after" in words
    assert state_of(job, jobs) == "finished", words
    # Two workers on two nodes compute what one computes here, restart and all.
    alone = [sys.executable, "-m", "pipeline", "train", "smoke", "--run=alone"]
    alone += [f"--set={word}" for word in recipe]
    alone += [
        "--set=cluster.saving.log_every_steps=1",
        "--set=cluster.workers.count=0",
        f"--set=cluster.data_dir={data_dir}",
    ]
    subprocess.run(alone, cwd=tmp_path, check=True, capture_output=True, env=os.environ)
    runs = tmp_path / "runs"
    assert had_the_same_images(runs / job.run, runs / "alone")


def state_of(job: SubmittedJob, jobs: SlurmJobs) -> str:
    return next(one.state for one in jobs.jobs() if one.id == job.id)


def begin_now(job: SubmittedJob, slurm: SlurmCluster) -> None:
    """Slurm leaves a job that was queued again alone for two minutes, whatever is configured."""
    slurm.ask("scontrol", "update", f"jobid={job.id}", "starttime=now")


def await_(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.3)
