"""Checks before a training starts."""

import re
from pathlib import Path

import pytest
from torch import nn

from pipeline.checks.preflight import preflight
from pipeline.config.cluster import load_cluster
from pipeline.config.recipe import load_recipe
from pipeline.models.lenet import LeNet5Modern
from pipeline.models.zoo import NETWORKS
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime import precision as precision_module


@pytest.mark.parametrize("small_disk", [3072], indirect=True)
def test_existing_checkpoints_need_no_more_space(small_disk: Path) -> None:
    """The checkpoints of `smoke` take 2.7 MB in all."""
    run = RunFolder(small_disk / "mine")
    run.checkpoints.mkdir(parents=True)
    (run.checkpoints / "epoch-0001-step-000000.pt").write_bytes(bytes(1_500_000))
    recipe, cluster = load_recipe("smoke"), load_cluster("laptop", [f"runs_dir={small_disk}"])
    (first,) = preflight(recipe, cluster, ("storage",))
    assert not first.passed
    assert "2 MB free, the checkpoints need 3 MB" in first.message
    (resumed,) = preflight(recipe, cluster, ("storage",), run.checkpoint_bytes)
    assert resumed.passed


def test_a_network_that_does_not_support_dense_evaluation_is_refused() -> None:
    dense = ["evaluation={kind: dense, resize: [32]}"]
    (check,) = preflight(load_recipe("smoke", dense), load_cluster("laptop"), ("network",))
    assert (check.passed, check.message.partition(" ")[0]) == (False, "LeNet5Modern")
    fits = load_recipe("resnet18", ["evaluation={kind: dense, resize: [256]}"])
    (check,) = preflight(fits, load_cluster("laptop"), ("network",))
    assert check.passed, check.message


def test_an_optimizer_that_does_not_support_the_network_is_refused() -> None:
    optimizer = "optimizer={kind: diagonal-levenberg-marquardt, learning_rate: 0.001}"
    (check,) = preflight(load_recipe("resnet18", [optimizer]), load_cluster("laptop"), ("network",))
    assert not check.passed
    assert "those of ResNet are not; use optimizer.kind: sgd" in check.message


def test_a_layer_that_no_gpu_computes_twice_the_same_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Reflecting(LeNet5Modern):
        def __init__(self, num_classes: int, num_channels: int = 1) -> None:
            super().__init__(num_classes, num_channels)
            self.pad = nn.ReflectionPad2d(1)

    monkeypatch.setitem(NETWORKS, "lenet5_modern", Reflecting)
    recipe = load_recipe("smoke")
    for deterministic in ("false", "true"):
        cluster = load_cluster("1gpu", [f"deterministic={deterministic}"])
        (check,) = preflight(recipe, cluster, ("network",))
        assert check.passed == (deterministic == "false")
    assert check.message == (
        "cluster.deterministic: lenet5_modern has pad (ReflectionPad2d), which no GPU computes the "
        "same way twice; add --set cluster.deterministic=false, or change the network"
    )


def test_the_precision_is_what_the_device_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(cluster: str, *settings: str, precision: str = "bfloat16") -> str:
        recipe = load_recipe("smoke", [f"precision={precision}"])
        (check,) = preflight(recipe, load_cluster(cluster, [*settings]), ("precision",))
        assert check.passed
        return check.message

    monkeypatch.setattr(precision_module, "computes_bfloat16", lambda device: False)
    assert found("laptop") == "float32, since the device computes no bfloat16"
    assert found("laptop", precision="float32") == "float32"
    monkeypatch.setattr(precision_module, "computes_bfloat16", lambda device: True)
    assert found("laptop") == "bfloat16"
    far = "{count: 8, device: gpu, ray_address: auto"
    assert found("8gpu", f"workers={far}}}") == (
        "bfloat16 where the devices of all workers compute it, else float32"
    )
    assert found("8gpu", f"workers={far}, gpu: a100}}") == "bfloat16"
    assert found("8gpu", f"workers={far}, gpu: v100}}").startswith("float32, since")


def test_a_micro_batch_too_large_for_memory_is_refused() -> None:
    cluster = load_cluster("laptop")
    (fine,) = preflight(load_recipe("smoke"), cluster, ("memory",))
    assert fine.passed
    huge = "batch={global_batch_size: 131072, micro_batch_size: 65536}"
    (check,) = preflight(load_recipe("vgg16", [huge]), cluster, ("memory",))
    assert not check.passed
    assert re.match(
        r"vgg16 takes at least \d{4}\.\d GB to train, this machine has .*; lower batch",
        check.message,
    )


def test_a_missing_gpu_fails_each_check_that_needs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    checks = list(preflight(load_recipe("smoke"), load_cluster("1gpu"), ("machine", "memory")))
    assert [check.passed for check in checks] == [False, False]
    assert all("CUDA finds none here; use --on laptop" in check.message for check in checks)


def test_a_training_in_this_process_needs_one_machine_whatever_the_cluster(
    tracking_uri: str,
) -> None:
    workers = "workers={min: 2, max: 4, device: cpu, ray_address: auto}"
    cluster = load_cluster("laptop", [workers, f"tracking.uri={tracking_uri}"])
    names = ("machine", "memory", "tracking")
    several = list(preflight(load_recipe("smoke"), cluster, names))
    assert [check.passed for check in several] == [True, True, False]
    assert "several machines can't share a sqlite file" in several[2].message
    alone = cluster.in_this_process()
    assert (alone.workers.fewest, alone.workers.most, alone.workers.is_elastic) == (1, 1, False)
    checks = list(preflight(load_recipe("smoke"), alone, names))
    assert all(check.passed for check in checks)
    assert checks[0].message == "this process"
    assert "this machine has" in checks[1].message
