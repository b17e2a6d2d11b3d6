"""What the benchmark measures is what trains: same batches, same step, and a baseline beside it."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from pipeline.benchmark.baselines import torchvision_batches, worker_counts
from pipeline.benchmark.loader_memory import LoaderMemory
from pipeline.benchmark.machine_info import machine_info
from pipeline.benchmark.sample_images import write_sample_images
from pipeline.benchmark.throughput import run_benchmark
from pipeline.benchmark.train_steps import (
    Bench,
    first_batches,
    loading_only,
    open_loader,
    training_steps,
)
from pipeline.cli.commands import app
from pipeline.config.cluster import Cluster, LoadingConfig, WorkersConfig, load_cluster
from pipeline.config.recipe import Recipe, load_recipe
from pipeline.data.loading.loader import Batch
from pipeline.data.store.store import Split
from pipeline.launch.training_job import TrainingJob
from pipeline.models.batch_norm import BatchNorm2d
from pipeline.models.zoo import build_model
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.distributed import Worker
from pipeline.runtime.errors import UserError
from pipeline.trainer.worker import training_batches
from pipeline.training.schedule import PlateauState
from pipeline.training.train_state import Progress

# torchvision will hand decoding over to TorchCodec; what people use today is what is measured.
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")

CPU = torch.device("cpu")
NUM_PICTURES = 12
AUGMENTATIONS = {
    "area": "{kind: area}",
    "scale-jitter": "{kind: scale-jitter, min_side: 64, max_side: 96}",
    "alexnet": "{kind: alexnet, resize: 72}",
    "shift-scale": "{kind: shift-scale, max_shift: 0.1, min_scale: 0.9, max_scale: 1.1}",
    "none": "{kind: none}",
}


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def pictures(data_folder: Path) -> Split:
    return write_sample_images(data_folder / "pictures", NUM_PICTURES, num_classes=10)


def small_recipe(*more: str) -> Recipe:
    """ResNet-18 on 64×64 pixels, 4 at a time."""
    return load_recipe(
        "resnet18",
        [
            "network.num_classes=10",
            "data.name=pictures",
            "input.size=64",
            f"augmentation={AUGMENTATIONS['scale-jitter']}",
            "evaluation.resize=72",
            "batch={global_batch_size: 4, micro_batch_size: 4}",
            "precision=float32",
            "epochs=2",
            "schedule={kind: constant}",
            *more,
        ],
    )


def bench_of(pictures: Split, *more: str) -> Bench:
    return Bench(small_recipe(*more), pictures, LoadingConfig(), channels_last=True, device=CPU)


def test_sample_images_have_imagenets_sizes_and_are_all_different(pictures: Split) -> None:
    sizes = np.sort(pictures.sizes, axis=1)
    assert ((sizes[:, 0] >= 350) & (sizes[:, 0] < 400)).all()
    assert ((sizes[:, 1] >= 480) & (sizes[:, 1] < 520)).all()
    assert 0 < (pictures.sizes[:, 0] > pictures.sizes[:, 1]).sum() < NUM_PICTURES / 2
    encoded = {pictures.encoded(i).tobytes() for i in range(NUM_PICTURES)}
    assert len(encoded) == NUM_PICTURES


def test_the_loader_is_that_of_a_training(data_folder: Path, pictures: Split) -> None:
    bench = bench_of(pictures)
    cluster = Cluster(workers=WorkersConfig(count=0, device="cpu"), data_dir=str(data_folder))
    job = TrainingJob(bench.recipe, cluster, RunFolder(data_folder / "run"), "")
    worker = Worker(0, 1, CPU)
    start = Progress(0, 0, PlateauState())
    trained = list(training_batches(job, job.sampler(worker), start, worker, print))
    measured = list(open_loader(bench))
    assert len(measured) == len(trained) == 2 * NUM_PICTURES / 4
    for ours, theirs in zip(measured, trained, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.equal(ours.indices, theirs.indices)
    assert sorted(torch.cat([batch.indices for batch in measured[:3]])) == list(range(NUM_PICTURES))


def test_loading_counts_every_image(pictures: Split) -> None:
    assert list(loading_only(open_loader(bench_of(pictures)))) == [4] * 6


def test_a_step_trains_on_one_batch_and_counts_its_images(pictures: Split) -> None:
    bench = bench_of(pictures)
    in_memory = first_batches(bench, 2)
    taken: list[Batch] = []

    def batches() -> Iterator[Batch]:
        for batch in itertools.cycle(in_memory):
            taken.append(batch)
            yield batch

    step = training_steps(bench, batches())
    assert [next(step) for _ in range(4)] == [4] * 4  # on into the second epoch
    assert len(taken) == 4
    assert all(batch.images.is_contiguous(memory_format=torch.channels_last) for batch in taken)


def test_loader_and_steps_together_train_on_every_image(pictures: Split) -> None:
    bench = bench_of(pictures)
    assert sum(training_steps(bench, open_loader(bench))) == 2 * NUM_PICTURES


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_torchvision_loads_the_same_batches(augmentation: str, pictures: Split) -> None:
    bench = bench_of(pictures, f"augmentation={AUGMENTATIONS[augmentation]}")
    ours = list(open_loader(bench))
    theirs = list(itertools.islice(torchvision_batches(bench, num_workers=0), len(ours)))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.indices, other.indices)
        assert torch.equal(one.labels, other.labels)
        assert one.images.shape == other.images.shape
        assert one.images.dtype == other.images.dtype
        assert one.images.stride() == other.images.stride()
    if augmentation == "none":  # nothing random: the pixels agree too, in grey levels
        difference = (torch.cat([one.images for one in ours])
                      - torch.cat([other.images for other in theirs])).abs()  # fmt: skip
        assert difference.mean() < 0.5


def test_torchvisions_workers_load_gray_images_too(pictures: Split) -> None:
    gray = "input={size: 64, color: gray, mean: [120.0], std: [60.0]}"
    bench = bench_of(pictures, gray, f"augmentation={AUGMENTATIONS['none']}")
    (theirs,) = itertools.islice(torchvision_batches(bench, num_workers=1), 1)
    (ours,) = first_batches(bench, 1)
    assert theirs.images.shape == ours.images.shape == (4, 1, 64, 64)
    assert (theirs.images - ours.images).abs().mean() < 0.5 / 60


def test_no_more_workers_are_tried_than_the_loader_has_threads() -> None:
    assert [worker_counts(threads) for threads in (1, 2, 5)] == [[0, 1], [0, 1, 2], [0, 3, 5]]


def test_growth_is_in_percent_of_the_first_epoch() -> None:
    assert LoaderMemory(
        after_first_epoch=200, after_last_epoch=210, epochs=20
    ).growth == pytest.approx(5)


def test_the_command_prints_figures_ratios_and_the_machine() -> None:
    threads = torch.get_num_threads()
    command = (
        "benchmark smoke --set precision=bfloat16 --against torchvision "
        "--runs 2 --images 20 --seconds 0.01"
    )
    done = CliRunner().invoke(app, command, env={"COLUMNS": "80"}, catch_exceptions=False)
    assert done.exit_code == 0
    precision = "bfloat16" if machine_info(CPU).computes_bfloat16 else "float32"
    for part in (
        "lenet5_modern, 2 rounds",
        f"step, {precision} channels-last",
        "together ÷ slower",
        "loader ÷ torchvision's",
        "a step is 8 images of 32×32",
        "24 JPEGs",  # whole micro-batches
        "Resize, RandomAffine in uint8",
        "memory of the loader",
    ):
        assert part in done.output
    assert torch.get_num_threads() == threads


def test_layers_of_a_type_can_be_replaced_by_identities(pictures: Split) -> None:
    bench = bench_of(pictures)
    with torch.device("meta"):
        kinds = [
            type(layer) for layer in build_model(bench.recipe.network, bench.recipe.input).modules()
        ]
    assert BatchNorm2d in kinds
    seen: list[type[nn.Module]] = []
    hook = nn.modules.module.register_module_forward_hook(
        lambda layer, given, result: seen.append(type(layer))
    )
    with hook:
        next(training_steps(bench, open_loader(bench), without=BatchNorm2d))
    assert nn.Identity in seen
    assert BatchNorm2d not in seen


def test_an_unknown_baseline_is_refused() -> None:
    with pytest.raises(UserError, match=r"tensorflow.*torchvision"):
        run_benchmark(load_recipe("smoke"), load_cluster("laptop"), against="tensorflow")


def test_signals_are_refused() -> None:
    with pytest.raises(UserError, match="mnist1d_conv takes signals, which have no benchmark"):
        run_benchmark(load_recipe("mnist1d_conv"), load_cluster("laptop"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"GPU.*--on laptop"):
        run_benchmark(load_recipe("smoke"), load_cluster("1gpu"))
