"""Checks of nodes: real raylets, one of them with its own disk, data and clock."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from ray.util import get_node_ip_address

from pipeline.checks import nodes
from pipeline.checks.node_checks import check_nodes, check_reports
from pipeline.checks.node_report import NodeReport
from pipeline.checks.nodes import Node
from pipeline.checks.preflight import Check
from pipeline.config.cluster import Cluster, load_cluster
from pipeline.config.recipe import load_recipe
from pipeline.runtime.errors import UserError

RAY = Path(sys.executable).with_name("ray")
RECIPE = load_recipe("resnet50")
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


@pytest.fixture
def cluster(data_dir: Path, tmp_path: Path, tracking_uri: str) -> Cluster:
    settings = [
        f"data_dir={data_dir}",
        f"runs_dir={tmp_path / 'runs'}",
        f"tracking.uri={tracking_uri}",
    ]
    return load_cluster("laptop", settings)


# Checks from a process of its own, as those of the tests use a Ray that takes no other nodes.
CHECK = """
import sys, time
import ray
from pipeline.checks.node_checks import check_nodes
from pipeline.config.cluster import Cluster
from pipeline.config.recipe import load_recipe
from pipeline.runtime.ray_session import ray_session

with ray_session(sys.argv[1]):
    while sum(node["Alive"] for node in ray.nodes()) < 2:
        time.sleep(0.2)
    cluster = Cluster.model_validate_json(sys.argv[2])
    for check in check_nodes(load_recipe("lenet5_digits"), cluster):
        print(check.name, check.passed, check.message, sep="|")
"""


@contextmanager
def started_by_hand(command: str, environment: dict[str, str]) -> Iterator[None]:
    """Run a shell command, in mounts of its own, that starts a node of Ray and stays."""
    process = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", command],
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_what_differs_on_one_node_fails_its_checks(
    cluster: Cluster, data_dir: Path, tmp_path: Path
) -> None:
    """A node with a disk of its own in place of the runs folder, other data, and a fast clock."""
    own_runs, own_data = tmp_path / "own-runs", tmp_path / "own-data"
    own_runs.mkdir()
    cluster.runs_dir.mkdir()
    shutil.copytree(data_dir / "digits", own_data)
    shard = next(own_data.glob("train-*.tar"))
    content = bytearray(shard.read_bytes())
    content[600] ^= 1  # in the first image; as long as before
    shard.write_bytes(content)
    mounts = (
        f"mount --bind {own_runs} {cluster.runs_dir} && mount --bind {own_data} {data_dir}/digits"
    )
    tried = subprocess.run(["unshare", "-m", "sh", "-c", mounts], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip("may not mount")
    clock = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": "+3600"} if FAKETIME.exists() else {}
    # As its users start one, who set nothing: on all interfaces, without a token.
    environment = {name: value for name, value in os.environ.items() if "RAY_" not in name}
    environment["HOME"] = str(tmp_path)
    with socket.create_server(("", 0)) as holder:
        port = holder.getsockname()[1]
    address = f"{get_node_ip_address()}:{port}"
    folder = tempfile.mkdtemp(prefix="ray-")  # paths of sockets may have 107 letters
    options = f"--disable-usage-stats --block --temp-dir={folder}"
    head = f"exec {RAY} start --head --port={port} --num-cpus=4 --include-dashboard=false {options}"
    node = f"{mounts} && exec {RAY} start --address={address} --num-cpus=0 {options}"
    try:
        with (
            started_by_hand(head, environment),
            started_by_hand(f"sleep 5; {node}", environment | clock),
        ):
            checked = subprocess.run(
                [sys.executable, "-c", CHECK, address, cluster.model_dump_json()],
                env=environment,
                capture_output=True,
                text=True,
                timeout=200,
                check=False,
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert checked.returncode == 0, checked.stderr
    lines = (line.split("|", 2) for line in checked.stdout.splitlines())
    checks = {name: Check(name, passed == "True", message) for name, passed, message in lines}
    expected = {"shared storage", "data everywhere"} | ({"clocks"} if FAKETIME.exists() else set())
    assert {name for name, check in checks.items() if not check.passed} == expected
    assert "isn't shared, it sees 1 of 2 nodes' files" in checks["shared storage"].message
    assert "'digits' is another data set than on the other" in checks["data everywhere"].message
    if FAKETIME.exists():
        # As far as it surely is: less by the half of what the quickest answer took.
        assert re.search(r"its clock is 3,(600|59\d) s ahead", checks["clocks"].message)
    assert re.match(r"2 workers, 0.247 MB in [\d.]+ ms: [\d.]+ GB/s", checks["all-reduce"].message)
    assert not list(cluster.runs_dir.iterdir())


def test_a_training_in_this_process_has_no_nodes_to_check(cluster: Cluster) -> None:
    alone = cluster.in_this_process()
    assert [check.message for check in check_nodes(RECIPE, alone)] == ["this process alone"]


FINE = NodeReport(
    software="torch 2", num_gpus=8, gpu_memory=80 * 10**9,
    computes_bfloat16=True, driver_cuda=13_000,
    needed_cuda=13_000, cpus=64,
    free_memory=2**37, free_storage=2**40, storage_problem="", data_digest="d" * 64,
    data_problem="", tracking_problem="",
)  # fmt: skip


def node(name: str, **changes: object) -> Node:
    return Node(name, 8, 64, replace(FINE, **changes), ("mark-a", "mark-b"), 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("GPUs", {"num_gpus": 7}, "b: Ray counts 8 GPUs, the driver shows 7"),
        ("GPUs", {"driver_cuda": 12_040}, "b: the driver supports CUDA 12.4, torch and DALI need"),
        ("GPUs", {"num_gpus": 0, "driver_cuda": 0}, "the driver shows 0"),
        ("memory", {"gpu_memory": 10**9}, "b: resnet50 takes at least 3.4 GB to train, 1.0 GB are"),
        ("loader", {"cpus": 32}, "b: 8 workers load with 64 threads, it has 32 cores"),
        ("loader", {"free_memory": 10**6}, "b: loading takes 1.1 GB, 0.0 GB are free"),
        ("shared storage", {"free_storage": 10**6}, "b: 1 MB free, the checkpoints need 1,127 MB"),
        ("shared storage", {"storage_problem": "/r: can't be written"}, "b: /r: can't be written"),
        ("data everywhere", {"data_problem": "no data set there"}, "b: no data set there"),
        ("tracking server", {"tracking_problem": "is away"}, "b: is away"),
    ],
)
def test_a_node_that_lacks_something_fails_one_check_by_its_name(
    name: str, changes: dict[str, object], message: str
) -> None:
    cluster = load_cluster("8gpu")
    good, bad = [node("a"), node("c")], node("b", **changes)
    assert all(check.passed for check in check_reports(good, RECIPE, cluster))
    (failed,) = (
        check for check in check_reports([*good, bad], RECIPE, cluster) if not check.passed
    )
    assert failed.name == name
    assert message in failed.message


def test_the_precision_is_what_all_nodes_with_workers_compute() -> None:
    def found(nodes: list[Node]) -> str:
        checks = check_reports(nodes, RECIPE, load_cluster("8gpu"))
        (check,) = (check for check in checks if check.name == "precision")
        assert check.passed
        return check.message

    old = node("b", computes_bfloat16=False)
    assert found([node("a")]) == "bfloat16 on every node"
    assert found([node("a"), old]) == "float32: b compute no bfloat16"
    assert found([node("a"), replace(old, gpus=0)]) == "bfloat16 on every node"


def test_several_nodes_that_lack_the_same_are_counted() -> None:
    bad = [node(name, num_gpus=7) for name in "bcd"]
    checks = check_reports([node("a"), *bad], RECIPE, load_cluster("8gpu"))
    (failed,) = (check for check in checks if not check.passed)
    assert failed.message.startswith("b: Ray counts 8 GPUs")
    assert failed.message.endswith("(and 2 more)")


def test_an_unreachable_ray_is_a_failed_check(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "1")
    far = cluster.workers.model_copy(update={"ray_address": "no-port"})
    (check,) = check_nodes(RECIPE, cluster.model_copy(update={"workers": far}))
    assert not check.passed
    assert "Ray at 'no-port' can't be joined" in check.message


def test_a_node_that_does_not_answer_with_its_time_is_named(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(nodes, "_TIMEOUT", 0)
    here = ray.get_runtime_context().get_node_id()
    with pytest.raises(UserError, match="this one: no answer in 0 s; is the node up"):
        nodes._clock_skew(here, "this one")
