"""Two machines, an address each: the cable between them is cut during a training, and mended."""

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
    """MLflow on the first machine, for both; its address, and its database from here."""
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
    """A training on the first machine, and what it says."""

    def __init__(self, machines: Machines, log: Path, *words: str) -> None:
        self._log = log
        with log.open("wb") as out:
            self._process = machines.run(1, "ilsvrc", *words, stdout=out, stderr=out)

    def await_words(self, words: str) -> None:
        self.until(lambda: words in self._log.read_text())

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
def test_a_training_outlives_a_cut_cable(
    machines: Machines, tracking_server: tuple[str, str], make_job: MakeJob, tmp_path: Path
) -> None:
    recipe = [f"epochs={EPOCHS}", "optimizer.learning_rate=0.001"]
    calm = make_job("calm", recipe, ["workers.count=0", "saving.log_every_steps=1"])
    run_on_workers(train, calm, lambda event: None)
    workers = (
        "{min: 1, max: 2, device: cpu, resize_seconds: 2, max_failures: 5, hang_seconds: 20, "
        f"ray_address: '{machines.head}'}}"
    )
    settings = {
        "workers": workers, "network": "{interface: eth0}", "data_dir": calm.cluster.data_dir,
        "saving": "{log_every_steps: 1, checkpoint_every_steps: 10}", "runs_dir": tmp_path / "runs",
        "tracking.uri": tracking_server[0],
    }  # fmt: skip
    words = [f"--set={word}" for word in recipe]
    words += [f"--set=cluster.{name}={value}" for name, value in settings.items()]
    command = Command(machines, tmp_path / "log", "train", "smoke", *words)
    try:
        command.await_words(f"epoch 3/{EPOCHS}")
        machines.cut(2)
        command.await_words("goes on with 1 worker ")
        machines.mend(2)
        command.until(lambda: machines.ray_has_ended(2))  # it was given up, and is told so
        machines.start_ray(2)
        command.await_words("goes on with 2 workers ")
        command.await_end()
    finally:
        command.end()

    (folder,) = map(RunFolder, (tmp_path / "runs").glob("smoke-*"))
    assert had_the_same_images(folder.path, calm.folder.path)
    elastic = TrainingJob(calm.recipe, calm.cluster, folder, tracking_server[1])
    steps = [step for step, _ in tracked_losses(elastic)]
    assert steps == list(range(1, EPOCHS * STEPS + 1))
