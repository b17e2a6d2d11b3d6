"""Which clusters' only worker is the command's own process."""

import pytest

from pipeline.config.cluster import load_cluster
from pipeline.runtime.errors import UserError


@pytest.mark.parametrize(
    ("workers", "is_in_process"),
    [
        ("{count: 0, device: gpu, ray_address: auto}", True),
        ("{count: 1, device: cpu}", True),
        ("{count: 1, device: cpu, max_failures: 1}", False),  # to be started again
        ("{count: 1, device: cpu, ray_address: auto}", False),
        ("{count: 1, device: gpu}", False),
        ("{count: 2, device: cpu}", False),
        ("{min: 1, max: 1, device: cpu}", False),
    ],
)
def test_one_worker_on_a_cpu_here_is_the_commands_own_process(
    workers: str, is_in_process: bool
) -> None:
    cluster = load_cluster("laptop", [f"workers={workers}"])
    assert cluster.workers.are_in_process is is_in_process


def test_one_worker_of_another_engine_still_needs_that_engines_ray() -> None:
    one = "workers={count: 1, device: cpu}"
    with pytest.raises(UserError, match=r"workers\.ray_address=auto"):
        load_cluster("slurm", [one, "engine.workers_per_node=1"])


def test_a_password_in_the_address_of_the_data_is_refused_and_not_shown() -> None:
    with pytest.raises(UserError, match=r"http://host/data was given with a user.*FSSPEC") as error:
        load_cluster("laptop", ["data_dir=http://bob:secret@host/data"])
    assert "secret" not in str(error.value)
