"""Random faults in a small training, by the real command: the result is that without faults.

`make soak` injects 200; with the seed that is printed, the same ones in the same order. Two of five
meet two workers of Ray's, the others the command's own process as the only worker.
"""

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_FSIZE

import psutil
import pytest

from pipeline.tracking.mlflow_client import connect

ILSVRC = Path(sys.executable).with_name("ilsvrc")
FAULTS = int(os.environ.get("ILSVRC_SOAK_FAULTS", "2"))
FAULTS_BY_RAY = -(-FAULTS * 2 // 5)
STEPS = 15  # an epoch
WORKER = "ray::RayTrainWorker"


@dataclass(frozen=True)
class Training:
    """A command that trains in the folder `place`, in a session of its own."""

    place: Path
    process: "subprocess.Popen[str]"
    num_steps: int
    random: random.Random

    @property
    def run(self) -> Path:
        return self.place / "runs" / "mine"

    def members(self, name: str = "") -> list[psutil.Process]:
        """Return the processes of the command whose command line contains `name`."""
        return [one for one in session(self.process.pid) if name in command_line(one)]

    def one(self, name: str) -> psutil.Process:
        """Return one such process, or the driver where there is none."""
        return self.random.choice(self.members(name) or [psutil.Process(self.process.pid)])

    def kill_all(self) -> None:
        for one in self.members():
            one.kill()
        self.process.wait()

    def sleep(self, most: float, least: float = 0) -> None:
        time.sleep(self.random.uniform(least, most))

    def steps_done(self) -> int:
        with suppress(FileNotFoundError), (self.run / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4000))
            steps = re.findall(rb'\{"step": (\d+).*"train/loss".*\n', file.read())
            return int(steps[-1]) if steps else 0
        return 0

    def await_step(self, step: int) -> bool:
        """Wait until the step is done; return whether the command still runs."""
        while self.process.poll() is None and self.steps_done() < step:
            time.sleep(0.03)
        return self.process.poll() is None


def session(leader: int) -> list[psutil.Process]:
    members = []
    for process in psutil.process_iter():
        with suppress(OSError):
            if os.getsid(process.pid) == leader:
                members.append(process)
    return members


def command_line(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def suspend(process: psutil.Process, training: Training) -> None:
    process.suspend()
    training.sleep(4)
    process.resume()


def press_ctrl_c(training: Training) -> None:
    os.killpg(training.process.pid, signal.SIGINT)  # as a terminal does


def press_ctrl_c_twice(training: Training) -> None:
    press_ctrl_c(training)
    training.sleep(1)
    press_ctrl_c(training)


def kill_in_evaluation(training: Training) -> None:
    training.await_step(training.steps_done() // STEPS * STEPS + STEPS)
    training.sleep(0.3)
    training.one(training.random.choice([WORKER, ""])).kill()


def kill_at_the_end(training: Training) -> None:
    training.await_step(training.num_steps)
    training.sleep(3)
    training.kill_all()


def tear_checkpoint(training: Training) -> None:
    """As a machine that loses power may."""
    training.kill_all()
    if newest := max((training.run / "checkpoints").glob("epoch-*.pt"), default=None):
        os.truncate(newest, newest.stat().st_size // 2)


def tear_metrics(training: Training) -> None:
    training.kill_all()
    if (training.run / "metrics.jsonl").exists():
        with (training.run / "metrics.jsonl").open("ab") as file:
            file.write(b'{"step": 12, "ti')


def lose_recipe(training: Training) -> None:
    training.kill_all()
    (training.run / "recipe.yaml").unlink(missing_ok=True)


def fill_disk(training: Training) -> None:
    """Let the workers write nothing for some seconds."""
    workers = training.members(WORKER) or [training.one("")]
    for limit in (0, RLIM_INFINITY):
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.rlimit(RLIMIT_FSIZE, (limit, RLIM_INFINITY))
        if limit == 0:
            training.sleep(4)


def lock_database(training: Training) -> None:
    if (training.place / "mlflow.db").exists():
        file = training.place / "mlflow.db"
        with closing(sqlite3.connect(file, timeout=60, isolation_level=None)) as database:
            database.execute("BEGIN EXCLUSIVE")
            training.sleep(8)


Fault = Callable[[Training], None]
KINDS: dict[str, Fault] = {
    "the driver is killed": lambda training: training.process.kill(),
    "the driver gets SIGTERM": lambda training: training.process.terminate(),
    "the driver stands still": lambda training: suspend(training.one(str(ILSVRC)), training),
    "all are killed": Training.kill_all,
    "Ctrl-C": press_ctrl_c,
    "Ctrl-C twice": press_ctrl_c_twice,
    "a stop is requested": lambda training: (training.run / "stop").touch(),
    "SIGUSR1": lambda training: training.one(WORKER).send_signal(signal.SIGUSR1),
    "a kill during evaluation": kill_in_evaluation,
    "the newest checkpoint is torn": tear_checkpoint,
    "the last line of the metrics is torn": tear_metrics,
    "recipe.yaml is lost": lose_recipe,
    "the disk is full": fill_disk,
    "the database is locked": lock_database,
}
KINDS_BY_RAY: dict[str, Fault] = KINDS | {
    "a worker is killed": lambda training: training.one(WORKER).kill(),
    "a worker stands still": lambda training: suspend(training.one(WORKER), training),
    "the raylet is killed": lambda training: training.one("raylet/raylet").kill(),
    "Ray's GCS is killed": lambda training: training.one("gcs_server").kill(),
    "any process is killed": lambda training: training.one("").kill(),
}


@pytest.mark.timeout(600 + 200 * FAULTS)  # a fault costs a command's start, of tens of seconds
@pytest.mark.parametrize(
    ("faults", "kinds", "workers"),
    [
        (FAULTS_BY_RAY, KINDS_BY_RAY, "{count: 2, device: cpu, max_failures: 1}"),
        (FAULTS - FAULTS_BY_RAY, KINDS, "{count: 1, device: cpu}"),
    ],
    ids=["by-ray", "in-process"],
)
def test_random_faults_do_not_change_the_result(
    faults: int, kinds: dict[str, Fault], workers: str, workspace: Path
) -> None:
    seed = int(os.environ.get("ILSVRC_SOAK_SEED", time.time_ns() % 10**6))
    print(f"ILSVRC_SOAK_FAULTS={FAULTS} ILSVRC_SOAK_SEED={seed}", flush=True)
    epochs = 6 + 2 * faults  # a fast machine trains for many steps while a fault lasts
    command = [
        str(ILSVRC), "train", "smoke", "--run", "mine",
        "--set", f"epochs={epochs}",
        "--set", f"cluster.workers={workers}",
        "--set", "cluster.saving.checkpoint_every_steps=4",
        "--set", "cluster.saving.log_every_steps=1",
    ]  # fmt: skip
    calm, disturbed = workspace / "calm", workspace / "disturbed"
    for place in (calm, disturbed):
        place.mkdir()
        (place / "data").symlink_to(workspace / "data")
    done = subprocess.run(command, cwd=calm, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    shared = set(Path("/dev/shm").iterdir())
    disturb(command, disturbed, epochs * STEPS, drawn(faults, kinds, random.Random(seed)), seed)
    run = Path("runs") / "mine"
    assert (disturbed / run / "weights.safetensors").read_bytes() == (
        calm / run / "weights.safetensors"
    ).read_bytes()
    ours, theirs = (tracked_values(place) for place in (disturbed, calm))
    assert ours == theirs
    assert [step for step, _ in ours["train/loss"]] == list(range(1, epochs * STEPS + 1))
    assert not [path for path in Path("/tmp").glob("ilsvrc-*-*") if is_left(path)]
    assert not {path for path in Path("/dev/shm").iterdir() if "torch" in path.name} - shared
    left = {path.name for path in (disturbed / run).iterdir()}
    assert left == {path.name for path in (calm / run).iterdir()}


def drawn(number: int, kinds: dict[str, Fault], generator: random.Random) -> list[str]:
    """Return that many kinds in random order, each as often as the others."""
    rounds = [generator.sample(list(kinds), len(kinds)) for _ in range(0, number, len(kinds))]
    return [kind for each in rounds for kind in each][:number]


def disturb(command: list[str], place: Path, num_steps: int, kinds: list[str], seed: int) -> None:
    """Repeat the command until it ends well, and inject a fault of each of the kinds meanwhile."""
    generator, start, sessions = random.Random(seed), time.monotonic(), list[int]()
    faults = [(kind, KINDS_BY_RAY[kind]) for kind in kinds]
    at_the_end = len(faults) // 40
    faults[len(faults) - at_the_end :] = [("a kill at the end", kill_at_the_end)] * at_the_end
    while True:
        process = subprocess.Popen(
            command, cwd=place, text=True, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        training = Training(place, process, num_steps, generator)
        if generator.random() < 0.15:
            training.sleep(20)  # the next fault comes while it starts
        else:
            training.await_step(min(training.steps_done() + 1, num_steps))
        while faults and process.poll() is None:
            kind, inject = faults.pop(0)
            step, seconds = training.steps_done(), time.monotonic() - start
            print(f"{seconds:.0f} s, step {step}: {kind}; {len(faults)} to come", flush=True)
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                inject(training)
            training.await_step(min(training.steps_done() + generator.randint(1, 6), num_steps))
        _, errors = process.communicate(timeout=900)
        print(f"  ended with {process.returncode}: {errors.strip()[-200:]}", flush=True)
        # A command that gets a signal before it handles signals ends by it.
        signals = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        assert process.returncode in (0, 1, 2, 130, *(-each for each in signals)), errors
        assert "Traceback" not in errors
        for leader in sessions:
            await_end_of_session(leader)
        sessions = [process.pid]
        if process.returncode == 0:
            break
    # A fast machine may have ended before the last of these.
    assert all(inject is kill_at_the_end for _, inject in faults)
    await_end_of_session(process.pid)


def tracked_values(place: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the step and value of each metric that no clock decides, of the only run, finished."""
    client = connect(f"sqlite:///{place}/mlflow.db")
    (tracked,) = client.search_runs([client.get_experiment_by_name("ilsvrc").experiment_id])
    assert tracked.info.status == "FINISHED"
    assert "metrics.lost" not in tracked.data.tags
    return {
        key: [(one.step, one.value) for one in client.get_metric_history(tracked.info.run_id, key)]
        for key in tracked.data.metrics
        if key.startswith(("train/", "eval/")) and not re.search("second|waiting", key)
    }


def is_left(folder: Path) -> bool:
    with suppress(OSError):
        mine = folder.stat().st_uid == os.getuid()
        return mine and not psutil.pid_exists(int(folder.name.split("-")[1]))
    return False


def await_end_of_session(leader: int) -> None:
    # Ray's agents take a minute to believe that a killed driver is gone.
    deadline = time.monotonic() + 120
    while left := session(leader):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.2)
