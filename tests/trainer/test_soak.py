"""Random faults in a small training, by the real command: the result is that without faults.

`make soak` injects 200; with the seed that is printed, the same ones at the same steps.
"""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pipeline.tracking.mlflow_client import connect

ILSVRC = Path(sys.executable).with_name("ilsvrc")
FAULTS = int(os.environ.get("ILSVRC_SOAK_FAULTS", "2"))
EPOCHS, STEPS = 6 + FAULTS // 6, 15
COMMAND = [
    str(ILSVRC), "train", "smoke", "--run", "mine",
    "--set", f"epochs={EPOCHS}",
    "--set", "cluster.workers.max_failures=1",
    "--set", "cluster.saving.checkpoint_every_steps=4",
    "--set", "cluster.saving.log_every_steps=1",
]  # fmt: skip
KINDS = ("a worker", "SIGUSR1 to a worker", "the driver", "all", "SIGTERM", "tear")


@pytest.mark.timeout(300 + 150 * FAULTS)  # a fault costs a command's start, of tens of seconds
def test_random_faults_do_not_change_the_result(workspace: Path) -> None:
    seed = int(os.environ.get("ILSVRC_SOAK_SEED", time.time_ns() % 10**6))
    print(f"ILSVRC_SOAK_FAULTS={FAULTS} ILSVRC_SOAK_SEED={seed}")
    calm, disturbed = workspace / "calm", workspace / "disturbed"
    for place in (calm, disturbed):
        place.mkdir()
        (place / "data").symlink_to(workspace / "data")
    done = subprocess.run(COMMAND, cwd=calm, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    shared = set(Path("/dev/shm").iterdir())
    generator = random.Random(seed)
    steps = sorted(generator.sample(range(1, EPOCHS * STEPS - STEPS), FAULTS))
    faults = generator.sample(KINDS * FAULTS, FAULTS)
    open_faults = list(zip(steps, faults, strict=True))
    sessions = []
    while True:
        process = subprocess.Popen(
            COMMAND, cwd=disturbed, text=True, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        while open_faults and _await_step(disturbed, open_faults[0][0], process):
            time.sleep(generator.uniform(0, 0.2))
            step, fault = open_faults.pop(0)
            print(f"step {step}: {fault}, seen at {_steps_done(disturbed)}")
            if _inject(fault, process, disturbed):
                break  # this process ends; another goes on
        sessions.append(process.pid)
        _, errors = process.communicate(timeout=300)
        if process.returncode == 0:
            break
        # A command that gets a signal before it handles signals ends by it.
        assert process.returncode in (1, 130, -signal.SIGKILL, -signal.SIGTERM), errors
        assert "Traceback" not in errors

    assert not open_faults
    for session in sessions:
        _await_end_of_children(session)
    run = Path("runs") / "mine"
    assert (disturbed / run / "weights.safetensors").read_bytes() == (
        calm / run / "weights.safetensors"
    ).read_bytes()
    for place in (calm, disturbed):
        client = connect(f"sqlite:///{place}/mlflow.db")
        (tracked,) = client.search_runs([client.get_experiment_by_name("ilsvrc").experiment_id])
        assert tracked.info.status == "FINISHED"
        losses = client.get_metric_history(tracked.info.run_id, "train/loss")
        assert [metric.step for metric in losses] == list(range(1, EPOCHS * STEPS + 1))
    assert not [path for pid in sessions for path in Path("/tmp").glob(f"ilsvrc-{pid}-*")]
    assert not {path for path in Path("/dev/shm").iterdir() if "torch" in path.name} - shared
    left = {path.name for path in (disturbed / run).iterdir()}
    assert left == {path.name for path in (calm / run).iterdir()}


def _inject(fault: str, process: "subprocess.Popen[str]", place: Path) -> bool:
    """Inject the fault; return whether the command ends by it."""
    members = [one for one in psutil.process_iter() if _session_of(one) == process.pid]
    if fault in ("a worker", "SIGUSR1 to a worker"):
        workers = [one for one in members if _is_worker(one)]
        if workers:  # none while they are being started again
            number = signal.SIGKILL if fault == "a worker" else signal.SIGUSR1
            with suppress(psutil.NoSuchProcess):
                random.choice(workers).send_signal(number)
        return False
    if fault == "SIGTERM":
        process.terminate()
    elif fault == "the driver":
        process.kill()
    else:
        for one in members:
            with suppress(psutil.NoSuchProcess):
                one.kill()
    if fault == "tear":  # as a machine that loses power may
        process.wait()
        newest = max((place / "runs/mine/checkpoints").glob("epoch-*.pt"), default=None)
        if newest:
            os.truncate(newest, newest.stat().st_size // 2)
    return True


def _is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return "RayTrainWorker" in " ".join(process.cmdline())
    return False


def _steps_done(place: Path) -> int:
    metrics = place / "runs" / "mine" / "metrics.jsonl"
    return metrics.read_bytes().count(b"train/loss") if metrics.exists() else 0


def _await_step(place: Path, step: int, process: "subprocess.Popen[str]") -> bool:
    while _steps_done(place) < step:
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    return process.poll() is None


def _await_end_of_children(group: int) -> None:
    # Ray's agents take a minute to believe that a killed driver is gone.
    deadline = time.monotonic() + 120
    while left := [one for one in psutil.process_iter() if _session_of(one) == group]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.2)


def _session_of(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except OSError:
        return -1
