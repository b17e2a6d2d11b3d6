"""Trainings as jobs of a real Ray cluster, which asks for a token."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml
from kubernetes_server import KubernetesServer
from ray_head import RayHead

from pipeline.config.cluster import load_cluster
from pipeline.runtime.errors import UserError
from pipeline.submit.job_engine import SubmittedJob
from pipeline.submit.kubernetes_api import KubernetesJobs
from pipeline.submit.ray_jobs import RayJobs
from pipeline.submit.submit import read_trainings
from pipeline.submit.working_tree import PROJECT

ILSVRC = Path(sys.executable).with_name("ilsvrc")

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def on_ray(ray_head: RayHead, data_dir: Path, tmp_path: Path) -> list[str]:
    """What chooses the Ray cluster, with one worker in the job's own process."""
    settings = {
        "engine.address": ray_head.address, "workers": "{count: 0, device: cpu}",
        "data_dir": data_dir, "runs_dir": tmp_path / "runs", "saving.log_every_steps": 5,
        "tracking.uri": f"sqlite:///{tmp_path}/mlflow.db",
    }  # fmt: skip
    return ["--on", "ray", *(f"--set=cluster.{key}={value}" for key, value in settings.items())]


@pytest.fixture
def ilsvrc(ray_head: RayHead) -> Command:
    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        return subprocess.run(
            [str(ILSVRC), *arguments], env={**clean, **ray_head.environment, **environment},
            capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip

    return run


def test_a_stopped_job_has_a_checkpoint_and_submitting_again_completes_it(
    ilsvrc: Command, on_ray: list[str], tmp_path: Path
) -> None:
    submit = ["submit", "smoke", *on_ray, "--set=epochs=20"]
    done = ilsvrc(*submit)
    ((job, run),) = re.findall(r"job (raysubmit_\w+): run (smoke-\w+)\n", done.stdout)
    metrics = tmp_path / "runs" / run / "metrics.jsonl"
    _await(lambda: metrics.exists() and "top5_error" in metrics.read_text())
    place = f"cluster.runs_dir={tmp_path / 'runs'}"
    (training,) = [
        one for one in psutil.process_iter(["cmdline"]) if place in (one.info["cmdline"] or ())
    ]
    training.suspend()  # or it may be over before the command has started
    done = ilsvrc("jobs", "stop", run, *on_ray)
    training.resume()
    assert f"job {job} is asked to stop: it saves and ends within 120 s" in done.stdout, done.stderr
    words = ilsvrc("jobs", "logs", job, "--follow", *on_ray).stdout
    (step,) = re.findall(r"stopped as asked, after (\d+ epochs and \d+ steps)", words)
    assert words.splitlines()[-1].startswith(f"job {job}: stopped")

    done = ilsvrc(*submit, "--follow")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert f"goes on after {step}" in done.stdout
    assert "epoch 20/20  val (whole, 899 images)" in done.stdout
    assert re.fullmatch(r"job raysubmit_\w+: finished", done.stdout.splitlines()[-1])

    listed = ilsvrc("jobs", "list", *on_ray).stdout
    newest, before = [line.split() for line in listed.splitlines() if run in line.split()]
    assert newest[1:4] == [run, "finished", "20.00/20"]
    assert newest[5] == re.findall(r"top-5 error ([\d.]+) %", done.stdout)[-1]
    assert before[:3] == [job, run, "stopped"]


def test_a_job_of_two_trainings_ends_with_their_ensemble(
    ilsvrc: Command, on_ray: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT)
    done = ilsvrc("submit", "jobs/smoke.yaml", *on_ray, "--follow")
    assert done.returncode == 0, done.stderr
    runs = re.findall(r"job raysubmit_\w+: run (smoke-\w+)\n", done.stdout)
    assert len(set(runs)) == 2
    assert done.stdout.count("899 images of val, 1 view of each") == 2  # by `center`
    assert done.stdout.count("ensemble of 2") == 1
    for run in runs:
        (folder,) = (tmp_path / "runs").glob(run)
        assert len(list((folder / "predictions").iterdir())) == 2
    listed = ilsvrc("jobs", "list", *on_ray).stdout
    assert all(re.search(rf"{run} +finished", listed) for run in runs)


@pytest.mark.slow
def test_a_jobs_workers_run_on_the_cluster_and_leave_its_ray_running(
    ilsvrc: Command, on_ray: list[str], mlflow_server: str
) -> None:
    workers = "cluster.workers={count: 2, device: cpu, ray_address: auto}"
    settings = ["--set", workers, f"--set=cluster.tracking.uri={mlflow_server}"]
    for epochs in (2, 3):
        done = ilsvrc("submit", "smoke", *on_ray, *settings, f"--set=epochs={epochs}", "--follow")
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"epoch {epochs}/{epochs}  val (whole, 899 images)" in done.stdout


def test_a_job_in_kubernetes_is_stopped_through_the_api_servers_proxy(
    ray_head: RayHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = KubernetesServer(proxied_to=ray_head.address)
    server.start()
    server.write_kubeconfig(tmp_path / "kubeconfig")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    server.add_secret("its-ray", auth_token=ray_head.token)
    server.of_kind("rayjobs")["mine"] = {
        "metadata": {"name": "mine"}, "status": {"rayClusterName": "its-ray", "jobId": "no-such"},
    }  # fmt: skip
    cluster = load_cluster("kuberay")
    jobs = KubernetesJobs(cluster.engine, cluster)  # type: ignore[arg-type]
    running = SubmittedJob("mine", "run", "running")
    # Ray itself answers: past its token, it knows no such job.
    with pytest.raises(UserError, match=r"Kubernetes at \S+ says: "):
        jobs.stop(running)
    server.add_secret("its-ray", auth_token="0" * 64)
    with pytest.raises(UserError):
        jobs.stop(running)
    place = "its-ray-head-svc:8265", "api/jobs/no-such/stop"
    assert server.proxied == [(*place, HTTPStatus.NOT_FOUND), (*place, HTTPStatus.FORBIDDEN)]
    server.stop()


def test_a_wrong_token_is_named_with_its_remedy(ilsvrc: Command, on_ray: list[str]) -> None:
    done = ilsvrc("jobs", "list", *on_ray, RAY_AUTH_TOKEN="0" * 64)
    assert done.returncode == 2
    assert re.fullmatch(
        r"ilsvrc: Ray at \S+ refuses the token; set RAY_AUTH_TOKEN.*\n", done.stderr
    )


def test_an_address_without_a_ray_cluster_is_named() -> None:
    cluster = load_cluster("ray", ["engine.address=http://127.0.0.1:9"])
    with pytest.raises(UserError, match=r"no Ray cluster answers at http://127\.0\.0\.1:9; start"):
        RayJobs(cluster.engine, cluster).jobs()  # type: ignore[arg-type]


def test_a_failed_job_without_a_message_has_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.job_submission import JobDetails

    messages = (None, "", "out of memory\nwhile …")
    known = [
        JobDetails(
            type="SUBMISSION", submission_id=f"job-{number}", entrypoint="", status="FAILED",
            message=message, metadata={"run": "mine"},
        )
        for number, message in enumerate(messages)
    ]  # fmt: skip
    server = SimpleNamespace(list_jobs=lambda: known)
    monkeypatch.setattr(RayJobs, "_client", lambda jobs: server)
    cluster = load_cluster("ray")
    jobs = RayJobs(cluster.engine, cluster).jobs()  # type: ignore[arg-type]
    assert [job.reason for job in jobs] == ["", "", "out of memory"]


def requests(*of_cluster: str) -> list[dict[str, object]]:
    trainings = read_trainings("resnet50", [], "ray", list(of_cluster), [3])
    cluster = trainings[0].cluster
    text = RayJobs(cluster.engine, cluster).render(trainings, "")  # type: ignore[arg-type]
    return list(yaml.safe_load_all(text))


def test_the_environment_can_be_pinned_to_the_constraints() -> None:
    (request,) = requests("engine.environment=pinned")
    packages = request["runtime_env"]["uv"]["packages"]  # type: ignore[index]
    assert [pin for pin in packages if pin.startswith("torch==")]
    assert "uv" not in requests()[0]["runtime_env"]  # type: ignore[operator]


def test_the_users_tracking_server_is_passed_on_without_a_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    (request,) = requests()
    environment = request["runtime_env"]["env_vars"]  # type: ignore[index]
    assert environment["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@mlflow:5000")
    with pytest.raises(UserError, match="holds a password") as error:
        requests()
    assert "secret" not in str(error.value)


def _await(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.3)
