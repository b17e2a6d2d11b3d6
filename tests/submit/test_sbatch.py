"""The script for Slurm, and Slurm's answers, as far as they can be tested without Slurm."""

import subprocess
from pathlib import Path

import pytest

from pipeline.config.cluster import load_cluster
from pipeline.runtime.errors import UserError
from pipeline.submit.job_engine import SubmittedJob
from pipeline.submit.sbatch import runs_of_comment
from pipeline.submit.slurm import SlurmJobs, read_lines
from pipeline.submit.submit import read_trainings


def script(*of_cluster: str, seeds: tuple[int, ...] = ()) -> str:
    trainings = read_trainings("resnet50", ["epochs=3"], "slurm", list(of_cluster), list(seeds))
    cluster = trainings[0].cluster
    jobs = SlurmJobs(cluster.engine, cluster)  # type: ignore[arg-type]
    return jobs.render(trainings, "ilsvrc submit …")


@pytest.mark.parametrize("seeds", [(), (0, 2)])
def test_the_script_is_valid_bash(seeds: tuple[int, ...]) -> None:
    text = script("engine.setup=[module load cuda, 'export A=\"b c\"']", seeds=seeds)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert 'module load cuda\nexport A="b c"\n' in text


def test_nodes_are_computed_from_the_workers() -> None:
    workers = "workers={count: 8, device: gpu, cpus: 6, ray_address: auto}"
    options = script(workers, "engine.workers_per_node=4").splitlines()
    for option in ("nodes=2", "ntasks-per-node=1", "cpus-per-task=24", "gpus-per-node=4"):
        assert f"#SBATCH --{option}" in options
    assert "#SBATCH --signal=B:USR1@120" in options


def test_an_array_of_jobs_has_the_seeds_as_numbers() -> None:
    text = script(seeds=(3, 7))
    assert "#SBATCH --array=3,7\n" in text
    (comment,) = [line for line in text.splitlines() if "--comment" in line]
    runs = runs_of_comment(comment.partition('"')[2].strip('"'))
    assert set(runs) == {"3", "7"}
    (line,) = [line for line in text.splitlines() if line.startswith("run=(")]
    names = subprocess.run(
        ["bash", "-c", f"{line}; echo ${{run[3]}} ${{run[7]}}"], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert names.stdout.split() == [runs["3"], runs["7"]]


def test_paths_under_the_working_folder_are_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "#SBATCH --output=runs/slurm-%j.log\n" in script("runs_dir=runs")


def test_a_container_has_the_folders_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    text = script(
        "engine.container=registry#team/ilsvrc:1", "engine.python=python3", "runs_dir=runs",
        "engine.container_mounts=['/scratch:/scratch']",
    )  # fmt: skip
    # What Slurm's command would be told, by a shell's own reading.
    step = text[text.index("srun ") : text.index(" &\nstep=")]
    told = subprocess.run(
        ["bash", "-c", f'srun() {{ printf "%s\\n" "$@"; }}; SLURM_CPUS_PER_TASK=1 run=r; {step}'],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    mounts = [f"{folder}:{folder}", f"{folder}/runs:{folder}/runs", "/shared/data:/shared/data"]
    assert told[3:8] == [
        "--container-image=registry#team/ilsvrc:1",
        f"--container-mounts={','.join([*mounts, '/scratch:/scratch'])}",
        f"--container-workdir={folder}",
        "python3",
        "-m",
    ]
    assert "--container" not in script()


LINES = {
    "squeue": "12|PENDING|Resources|0|ilsvrc resnet50-1a2b3c4d",
    "sacct": "12|RUNNING|None|0:0|ilsvrc resnet50-1a2b3c4d",
    "an array's task": " 12_3| RUNNING| None| 0| ilsvrc 3=resnet50-1a2b3c4d 7=resnet50-5e6f7a8b",
    "stopped, by squeue": "12|FAILED|NonZeroExitCode|33280|ilsvrc resnet50-1a2b3c4d",
    "stopped, by sacct": "12|FAILED|None|130:0|ilsvrc resnet50-1a2b3c4d",
    "failed": "12|FAILED|NonZeroExitCode|256|ilsvrc resnet50-1a2b3c4d",
    "no time": "12|TIMEOUT|TimeLimit|0:15|ilsvrc resnet50-1a2b3c4d",
    "cancelled": "12|CANCELLED by 0|None|0:15|ilsvrc resnet50-1a2b3c4d",
}
STATES = {
    "squeue": ("waiting", "Resources"), "sacct": ("running", ""),
    "an array's task": ("running", ""), "stopped, by squeue": ("stopped", ""),
    "stopped, by sacct": ("stopped", ""), "failed": ("failed", "exit code 1"),
    "no time": ("failed", "timeout"), "cancelled": ("stopped", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_slurms_states_are_translated(name: str) -> None:
    ((number, job),) = read_lines(LINES[name] + "\n99|RUNNING|None|0|another's comment\n")
    assert (job.state, job.reason) == STATES[name]
    assert (number, job.run) == (LINES[name].split("|")[0].strip(), "resnet50-1a2b3c4d")


def test_slurms_commands_may_fail_without_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name, script in {"squeue": "exit 0", "sacct": "exit 1", "scancel": "exit 3"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    cluster = load_cluster("slurm")
    jobs = SlurmJobs(cluster.engine, cluster)  # type: ignore[arg-type]
    assert jobs.jobs() == []  # no accounts are kept
    with pytest.raises(UserError, match="scancel says: nothing, and ends with 3"):
        jobs.stop(SubmittedJob("17", "mine", "waiting"))


def test_a_machine_without_slurm_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    cluster = load_cluster("slurm")
    with pytest.raises(UserError, match=r"squeue is not installed here; run this on.*login node"):
        SlurmJobs(cluster.engine, cluster).jobs()  # type: ignore[arg-type]


def test_the_log_of_an_old_job_is_read_without_the_controller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "slurm-17.log").write_text("epoch 3/3\n")
    cluster = load_cluster("slurm", [f"runs_dir={tmp_path}"])
    jobs = SlurmJobs(cluster.engine, cluster)  # type: ignore[arg-type]
    assert list(jobs.logs(SubmittedJob("17", "mine", "finished"), follow=True)) == ["epoch 3/3\n"]
