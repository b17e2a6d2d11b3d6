"""`ilsvrc plan`: rows, memory, calibration, the printed tables, errors in one line."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from pipeline.cli.commands import app
from pipeline.config.cluster import Cluster, load_cluster
from pipeline.config.recipe import Recipe, load_recipe
from pipeline.planning import plan as plan_module
from pipeline.planning.hardware import read_hardware
from pipeline.planning.measured_speed import MeasuredSpeed, keep_measurement
from pipeline.planning.plan import Plan, make_plan
from pipeline.planning.workload import checkpoint_bytes, measure_workload, weight_bytes
from pipeline.reports.plan_tables import plan_tables
from pipeline.runtime.errors import UserError


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return load_cluster("8gpu", [f"runs_dir={tmp_path}", f"data_dir={tmp_path}"])


def rendered(plan: Plan) -> str:
    out = io.StringIO()
    console = Console(file=out, width=200)
    for part in plan_tables(plan):
        console.print(part)
    return out.getvalue()


@pytest.mark.parametrize(
    ("recipe", "gpu"), [("resnet50", "a100"), ("alexnet", "rtx4090"), ("vgg16", "h100")]
)
def test_the_plan_fits_80_columns_and_cites_sources(
    recipe: str, gpu: str, cluster: Cluster
) -> None:
    text = rendered(make_plan(load_recipe(recipe), cluster, gpu))
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "estimated" in text
    assert "[1] " in text


def test_rows_are_consistent(cluster: Cluster) -> None:
    plan = make_plan(load_recipe("resnet50"), cluster, "a100")
    assert [row.num_workers for row in plan.rows] == [1, 8, 64, 256]
    assert [row.batch_size for row in plan.rows] == [256, 256, 2048, 8192]
    eight = plan.rows[1]
    assert eight.total_seconds == pytest.approx(120 * eight.epoch_seconds)
    assert eight.worker_hours == pytest.approx(8 * eight.total_seconds / 3600)
    assert eight.epoch_seconds == pytest.approx((1_281_167 + 50_000 / 3) / eight.images_per_second)
    assert eight.node_bytes_sent == 0
    assert eight.node_bytes_loaded == pytest.approx(eight.images_per_second * 108_000)
    steps = 5005  # of 256 images; a checkpoint every 1,000 and at the end
    assert plan.checkpoints_written == 120 * (steps // 1000 + 1)
    assert plan.max_workers == 8192 // 32


def test_the_clusters_own_number_of_workers_has_a_row(tmp_path: Path) -> None:
    cluster = load_cluster("4x8gpu", [f"runs_dir={tmp_path}", f"data_dir={tmp_path}"])
    plan = make_plan(load_recipe("resnet50"), cluster, "h100")
    assert [row.num_workers for row in plan.rows] == [1, 8, 32, 64, 256]


def test_rows_end_with_the_data_the_batch_and_this_machines_cores(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = load_cluster("laptop", [f"runs_dir={tmp_path}", f"data_dir={data_dir}"])
    digits = load_recipe("lenet5_digits")
    for cores, sizes in ((2, [1, 2]), (12, [1, 2, 8, 12]), (500, [1, 2, 8, 64, 898 // 8])):
        monkeypatch.setattr(plan_module.os, "cpu_count", lambda cores=cores: cores)
        plan = make_plan(digits, here, None)
        assert [row.num_workers for row in plan.rows] == sizes
        assert plan.efficient_workers <= sizes[-1]


def test_small_figures_have_small_units(data_dir: Path, tmp_path: Path) -> None:
    here = load_cluster("laptop", [f"runs_dir={tmp_path}", f"data_dir={data_dir}"])
    text = rendered(make_plan(load_recipe("lenet5_digits"), here, None))
    assert "0.0 GB" not in text
    assert "417 k multiply-adds" in text
    assert " 1 thread of " in text


def test_a_slow_link_limits_scaling(cluster: Cluster) -> None:
    fast = make_plan(load_recipe("alexnet"), cluster, "h100")
    slow = make_plan(load_recipe("alexnet"), cluster, "rtx4090")
    assert slow.efficient_workers < 8 <= fast.efficient_workers
    assert "Scaling pays up to" in " ".join(rendered(slow).split())


def test_memory_is_weights_gradients_momenta_and_activations(cluster: Cluster) -> None:
    recipe = load_recipe("resnet50")
    plan = make_plan(recipe, cluster, "a100")
    per_image = (plan.memory[256] - plan.memory[128]) / 128
    assert per_image == pytest.approx(81_694_720 / 2)  # float32's, halved
    assert plan.memory[8] - 8 * per_image == pytest.approx(4 * 25_557_032 * 4.5 + 2e9)


def test_checkpoints_hold_the_optimizers_state_and_an_average() -> None:
    plain, modern = load_recipe("resnet50"), load_recipe("inception_v3")
    assert checkpoint_bytes(plain) == 2 * weight_bytes(plain)
    assert checkpoint_bytes(modern) == 4 * weight_bytes(modern)  # RMSProp, and an average


def test_progressive_resizing_reduces_the_mean_area() -> None:
    resizing = "resizing={start_size: 112, full_size_from: 4, multiple_of: 1}"
    recipe = load_recipe("resnet50", [resizing, "epochs=8"])
    load = measure_workload(recipe, read_hardware().data["ilsvrc2012"])
    sizes = [112, 140, 168, 196, 224, 224, 224, 224]
    assert load.mean_area == pytest.approx(sum((size / 224) ** 2 for size in sizes) / 8)


def test_the_packed_data_set_is_preferred_to_the_known_one(data_dir: Path, tmp_path: Path) -> None:
    cluster = load_cluster("laptop", [f"runs_dir={tmp_path}", f"data_dir={data_dir}"])
    plan = make_plan(load_recipe("lenet5_digits"), cluster, None)
    assert not plan.machine.is_gpu
    assert plan.workload.data.train == 898
    assert 100 < plan.workload.data.bytes < 3000


def measured(recipe: Recipe, **changes: object) -> MeasuredSpeed:
    values: dict[str, object] = {
        "date": "2026-11-25 07:00", "recipe": recipe, "machine": "NVIDIA A100-SXM4-80GB",
        "device": "gpu", "cpus": 8, "threads": 4, "step_images_per_second": 1000,
        "loader_images_per_second": 2000,
    }  # fmt: skip
    return MeasuredSpeed.model_validate(values | changes)


def test_a_plan_is_corrected_by_the_measured_speed(cluster: Cluster) -> None:
    recipe = load_recipe("resnet50")
    keep_measurement(cluster.runs_dir, measured(recipe))
    plan = make_plan(recipe, cluster, "a100")
    assert plan.rows[0].images_per_second == pytest.approx(
        1000, rel=0.03
    )  # eight micro-batches a step
    assert plan.machine.images_loaded_per_second == 8 * 2000 / 4
    assert "measured: resnet50 stepped at 1,000 images/s" in rendered(plan)
    assert make_plan(recipe, cluster, "h100").calibration is None


def test_another_networks_measurement_corrects_the_plan_too(cluster: Cluster) -> None:
    keep_measurement(cluster.runs_dir, measured(load_recipe("resnet50")))
    before = make_plan(load_recipe("vgg16"), cluster, "h100").machine.correction
    after = make_plan(load_recipe("vgg16"), cluster, "a100").machine.correction
    assert before == 1.0
    assert after > 1.5  # the GPU measured is half as fast as an A100


def test_a_damaged_measurement_is_ignored(cluster: Cluster) -> None:
    path = keep_measurement(cluster.runs_dir, measured(load_recipe("resnet50")))
    path.write_text("{}")
    assert make_plan(load_recipe("resnet50"), cluster, "a100").calibration is None


def test_a_device_without_bfloat16_is_planned_in_float32(cluster: Cluster) -> None:
    recipe = load_recipe("resnet50")
    assert recipe.precision == "bfloat16"
    plan = make_plan(recipe, cluster, "v100")
    assert plan == replace(
        make_plan(load_recipe("resnet50", ["precision=float32"]), cluster, "v100"),
        precision_asked_for="bfloat16",
    )
    said = "In float32, since the device computes no bfloat16."
    assert said in rendered(plan)
    assert said not in rendered(make_plan(recipe, cluster, "a100"))


def test_cpus_here_are_planned_in_what_they_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = load_cluster("laptop", [f"runs_dir={tmp_path}", f"data_dir={tmp_path}"])
    recipe = load_recipe("resnet18")
    for has_it in (False, True):
        monkeypatch.setattr(plan_module, "computes_bfloat16", lambda device, has_it=has_it: has_it)
        plan = make_plan(recipe, here, None)
        assert plan.workload.recipe.precision == ("bfloat16" if has_it else "float32")


def test_what_cannot_be_planned_raises_a_user_error(cluster: Cluster) -> None:
    recipe = load_recipe("resnet50")
    with pytest.raises(UserError, match="GPU 'abacus': not known; there are: h100"):
        make_plan(recipe, cluster, "abacus")
    with pytest.raises(UserError, match="digits"):
        make_plan(load_recipe("lenet5_digits"), cluster, "a100")


def test_the_command_prints_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["plan", "resnet50", "--on", "8gpu", "--gpu", "v100"])
    assert done.exit_code == 0
    assert "V100" in done.output
