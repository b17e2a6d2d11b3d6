"""The cluster's network settings reach NCCL and gloo."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pipeline.config.cluster import load_cluster
from pipeline.config.recipe import load_recipe
from pipeline.launch.events import Event
from pipeline.launch.ray_train import run_on_workers
from pipeline.launch.training_job import TrainingJob
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.distributed import Worker, sum_over_workers


@pytest.mark.slow
@pytest.mark.parametrize("rendezvous", ["env", "tcp"])
def test_workers_meet_on_the_interface_that_was_chosen(
    data_dir: Path, tmp_path: Path, ray_session: None, rendezvous: str
) -> None:
    @dataclass(frozen=True)
    class Settings:
        interface: str | None
        timeout: float
        total: float

    def look(job: TrainingJob, worker: Worker, report: Callable[[Event], None]) -> Settings:
        backend = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))  # type: ignore[union-attr]
        total = sum_over_workers(torch.tensor(float(worker.rank + 1)), worker)
        seconds = backend.options._timeout.total_seconds()
        return Settings(os.environ.get("GLOO_SOCKET_IFNAME"), seconds, total.item())

    network = f"network={{interface: lo, rendezvous: {rendezvous}, timeout_seconds: 77}}"
    cluster = load_cluster("laptop", [f"data_dir={data_dir}", network])
    job = TrainingJob(load_recipe("smoke"), cluster, RunFolder(tmp_path), "")
    found = run_on_workers(look, job, lambda event: None)
    assert (found.interface, found.timeout, found.total) == ("lo", 77, 3)
