"""Two machines, an address each: the cable between them is cut during a training, and mended."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from machines import Machines
from safetensors.torch import load_file

from jobs import MakeJob, tracked_losses
from pipeline.launch.on_ray import run_on_workers
from pipeline.launch.run_folder import RunFolder
from pipeline.launch.worker import Job, train

EPOCHS, STEPS = 120, 15


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


def until(is_so: Callable[[], bool], log: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.mark.slow
def test_a_training_outlives_a_cut_cable(
    machines: Machines, make_job: MakeJob, tracking_uri: str, tmp_path: Path
) -> None:
    # With small steps, rounding in another order stays rounding over many of them.
    recipe = [f"epochs={EPOCHS}", "optimizer.learning_rate=0.001"]
    calm = make_job("calm", recipe, ["workers.count=0"])
    run_on_workers(train, calm, lambda event: None)
    workers = (
        "{min: 1, max: 2, device: cpu, resize_seconds: 2, max_failures: 5, hang_seconds: 20, "
        f"ray_address: '{machines.head}'}}"
    )
    settings = {
        "workers": workers, "network": "{interface: eth0}", "data_dir": calm.cluster.data_dir,
        "saving": "{log_every_steps: 1, checkpoint_every_steps: 10}", "runs_dir": tmp_path / "runs",
        "tracking.uri": tracking_uri,
    }  # fmt: skip
    words = [f"--set={word}" for word in recipe]
    words += [f"--set=cluster.{name}={value}" for name, value in settings.items()]
    log = tmp_path / "log"
    with log.open("wb") as out:
        command = machines.run(1, "ilsvrc", "train", "smoke", *words, stdout=out, stderr=out)
    until(lambda: f"epoch 3/{EPOCHS}" in log.read_text(), log)
    machines.cut(2)
    until(lambda: "goes on with 1 worker " in log.read_text(), log)
    machines.mend(2)
    until(lambda: machines.ray_has_ended(2), log)  # it was given up, and is told so
    machines.start_ray(2)
    until(lambda: "goes on with 2 workers " in log.read_text(), log)
    assert command.wait(timeout=200) == 0, log.read_text()

    (folder,) = map(RunFolder, (tmp_path / "runs").glob("smoke-*"))
    ours, theirs = load_file(folder.weights), load_file(calm.folder.weights)
    assert max((ours[name] - theirs[name]).abs().max().item() for name in theirs) < 1e-4
    elastic = Job(calm.recipe, calm.cluster, folder, tracking_uri)
    steps = [step for step, _ in tracked_losses(elastic)]
    assert steps == list(range(1, EPOCHS * STEPS + 1))
