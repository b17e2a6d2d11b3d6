"""Two machines with an address each: their link is cut during a training and restored."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from machines import Machines
from small_jobs import MakeJob, had_the_same_images, tracked_losses

from pipeline.launch.ray_train import run_on_workers
from pipeline.launch.training_job import TrainingJob
from pipeline.runs.run_folder import RunFolder
from pipeline.trainer.worker import train

EPOCHS, STEPS = 60, 15


@pytest.fixture
def machines() -> Iterator[Machines]:
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("needs root and iproute2, to make network namespaces")
    two = Machines()
    try:
        two.start()
        yield two
    finally:
        two.stop()


@pytest.fixture
def tracking_server(machines: Machines, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """An MLflow server on the first machine; its address, and the URI of its database from here."""
    folder, port = tmp_path / "mlflow", 5000
    folder.mkdir()
    with (folder / "log").open("wb") as log:
        server = machines.run(
            1, "mlflow", "server", "--host", machines.address(1), "--port", str(port),
            "--allowed-hosts", "*", "--workers", "1",
            "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
            "--artifacts-destination", str(folder / "artifacts"),
            cwd=folder, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        machines.await_port(1, port)
        yield f"http://{machines.address(1)}:{port}", f"sqlite:///{folder}/mlflow.db"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)


class Command:
    """A command on the first machine, and its output."""

    def __init__(self, machines: Machines, log: Path, *arguments: str) -> None:
        self._log = log
        with log.open("wb") as out:
            self._process = machines.run(1, "ilsvrc", *arguments, stdout=out, stderr=out)

    def await_text(self, text: str) -> None:
        self.until(lambda: text in self._log.read_text())

    def until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not is_so():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.1)

    def await_end(self) -> None:
        assert self._process.wait(timeout=200) == 0, self._log.read_text()

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=60)


@pytest.mark.slow
def test_a_training_survives_a_cut_link(
    machines: Machines, tracking_server: tuple[str, str], make_job: MakeJob, tmp_path: Path
) -> None:
    recipe = [f"epochs={EPOCHS}", "optimizer.learning_rate=0.001"]
    steady = make_job("steady", recipe, ["workers.count=0", "saving.log_every_steps=1"])
    run_on_workers(train, steady, lambda event: None)
    workers = (
        "{min: 1, max: 2, device: cpu, resize_seconds: 2, max_failures: 5, hang_seconds: 20, "
        f"ray_address: '{machines.head}'}}"
    )
    settings = {
        "workers": workers, "network": "{interface: eth0}", "data_dir": steady.cluster.data_dir,
        "saving": "{log_every_steps: 1, checkpoint_every_steps: 10}", "runs_dir": tmp_path / "runs",
        "tracking.uri": tracking_server[0],
    }  # fmt: skip
    arguments = [f"--set={value}" for value in recipe]
    arguments += [f"--set=cluster.{name}={value}" for name, value in settings.items()]
    command = Command(machines, tmp_path / "log", "train", "smoke", *arguments)
    try:
        command.await_text(f"epoch 3/{EPOCHS}")
        machines.cut(2)
        command.await_text("goes on with 1 worker ")
        machines.restore(2)
        command.until(lambda: machines.ray_has_ended(2))  # Ray declared the node dead, and it exits
        machines.start_ray(2)
        command.await_text("goes on with 2 workers ")
        command.await_end()
    finally:
        command.end()

    (folder,) = map(RunFolder, (tmp_path / "runs").glob("smoke-*"))
    assert had_the_same_images(folder.path, steady.folder.path)
    elastic = TrainingJob(steady.recipe, steady.cluster, folder, tracking_server[1])
    steps = [step for step, _ in tracked_losses(elastic)]
    assert steps == list(range(1, EPOCHS * STEPS + 1))
