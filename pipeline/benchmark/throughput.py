"""How many images a second one worker loads, trains on, and both at once.

- `loader`: the loader of a training alone; its batches are discarded.
- `step`: the training loop alone, on batches that are in the device's memory.
- `together`: the training loop on the loader.
- `plain_step`: as `step`, in float32 and the contiguous layout.
- `without_norm`: as `step`, of the network without its response normalization, where it has one.

The loader has `loading.threads` threads and the step `workers.cpus`, alone and together. So on a
machine with cores for both, only waiting and memory traffic can make `together` slower than the
slower of the two. On a GPU the step hardly needs the CPU.
"""

import itertools
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from pipeline.benchmark.baselines import augmentation_of, torchvision_batches, worker_counts
from pipeline.benchmark.loader_memory import LoaderMemory, measure_memory
from pipeline.benchmark.machine_info import MachineInfo, machine_info
from pipeline.benchmark.sample_images import write_sample_images
from pipeline.benchmark.timing import ProgressCallback, Series, TimedTask, take_turns
from pipeline.benchmark.train_steps import (
    Bench,
    first_batches,
    loading_only,
    open_loader,
    training_steps,
)
from pipeline.config.cluster import Cluster
from pipeline.config.recipe import BatchConfig, Recipe
from pipeline.models.response_norm import ResponseNorm
from pipeline.models.zoo import build_model
from pipeline.planning.measured_speed import MeasuredSpeed, now
from pipeline.planning.pass_size import gpu_memory, micro_batches_at_once
from pipeline.runtime.determinism import computing_on
from pipeline.runtime.distributed import device_here, threads
from pipeline.runtime.errors import UserError
from pipeline.runtime.precision import precision_on

_BATCHES_IN_MEMORY = 4
_EPOCHS_OF_MEMORY = 20
_ENDLESS = 10**9  # epochs


@dataclass(frozen=True)
class Baseline:
    """torchvision's loading of the same images, with the fastest of the `tried` worker counts."""

    rates: Series
    num_workers: int
    tried: tuple[int, ...]
    augmentation: str


@dataclass(frozen=True)
class Benchmark:
    """Images per second, a value a round; `recipe` is as `measurable_recipe` returned it."""

    recipe: Recipe
    cluster: Cluster
    machine: MachineInfo
    num_images: int
    memory: LoaderMemory
    loader: Series
    step: Series
    plain_step: Series
    without_norm: Series | None
    together: Series
    baseline: Baseline | None

    def measured_speed(self) -> MeasuredSpeed:
        """Return what `ilsvrc plan` reads of it."""
        workers, loading = self.cluster.workers, self.cluster.loading
        return MeasuredSpeed(
            date=now(),
            recipe=self.recipe.without_expectation(),
            machine=self.machine.gpu or self.machine.cpu,
            device=workers.device,
            cpus=workers.cpus,
            threads=loading.threads,
            step_images_per_second=self.step.median,
            loader_images_per_second=self.loader.median,
        )


def run_benchmark(
    recipe: Recipe,
    cluster: Cluster,
    *,
    against: str | None = None,
    rounds: int = 5,
    num_images: int = 512,
    seconds: float = 5.0,
    progress: ProgressCallback = lambda done, total: None,
) -> Benchmark:
    """Measure in `rounds` rounds with turns of `seconds`, on sample images.

    `num_images` different images, rounded up to whole passes, are loaded again and again;
    the recipe's own data isn't read. `against` may be "torchvision". bfloat16 becomes float32 on a
    device without instructions for it. Raises `UserError` for an unknown baseline, a recipe of
    signals, a network that doesn't fit its input, and a GPU that isn't there.
    """
    if against not in (None, "torchvision"):
        raise UserError(f"--against {against}: not a known baseline; there is: torchvision")
    device = device_here(cluster.workers.device)
    at_once = micro_batches_at_once(recipe, cluster.compute, gpu_memory(device))
    recipe = measurable_recipe(recipe, device, at_once)
    batch = recipe.batch.global_batch_size
    num_images = -(-num_images // batch) * batch
    num_classes = recipe.network.num_classes
    with (
        TemporaryDirectory(prefix="ilsvrc-") as folder,
        threads(cluster.workers.cpus),
        computing_on(device, deterministic=cluster.deterministic),
    ):
        split = write_sample_images(Path(folder) / "images", num_images, num_classes)
        bench = Bench(
            recipe,
            split,
            cluster.loading,
            cluster.channels_last,
            device,
            cluster.compute.engine,
        )
        memory = measure_memory(bench, _EPOCHS_OF_MEMORY)
        tried = worker_counts(cluster.loading.threads) if against else []
        num_workers = _fastest_count(bench, tried, seconds) if tried else None
        with ExitStack() as stack:
            tasks = {
                name: stack.enter_context(closing(task))
                for name, task in _tasks(bench, num_workers).items()
            }
            rates = take_turns(
                tasks,
                rounds,
                seconds,
                device,
                progress,
                steady=("step", "plain step", "without norm"),
            )
        baseline = None
        if num_workers is not None:
            names = [type(step).__name__ for step in augmentation_of(bench).transforms]
            baseline = Baseline(rates["baseline"], num_workers, tuple(tried), ", ".join(names))
    return Benchmark(
        recipe=recipe,
        cluster=cluster,
        machine=machine_info(device),
        num_images=num_images,
        memory=memory,
        loader=rates["loader"],
        step=rates["step"],
        plain_step=rates["plain step"],
        without_norm=rates.get("without norm"),
        together=rates["together"],
        baseline=baseline,
    )


def _tasks(bench: Bench, num_workers: int | None) -> dict[str, TimedTask]:
    tasks = {"loader": loading_only(open_loader(bench))}
    if num_workers is not None:
        tasks["baseline"] = loading_only(torchvision_batches(bench, num_workers))
    batches = first_batches(bench, _BATCHES_IN_MEMORY)
    plain = replace(
        bench, recipe=bench.recipe.model_copy(update={"precision": "float32"}), channels_last=False
    )
    plain_batches = [replace(batch, images=batch.images.contiguous()) for batch in batches]
    tasks["together"] = training_steps(bench, open_loader(bench))
    tasks["step"] = training_steps(bench, itertools.cycle(batches))
    tasks["plain step"] = training_steps(plain, itertools.cycle(plain_batches))
    if _has_response_norm(bench.recipe):
        tasks["without norm"] = training_steps(
            bench, itertools.cycle(batches), without=ResponseNorm
        )
    return tasks


def _has_response_norm(recipe: Recipe) -> bool:
    with torch.device("meta"):
        layers = build_model(recipe.network, recipe.input).modules()
    return any(isinstance(layer, ResponseNorm) for layer in layers)


def _fastest_count(bench: Bench, tried: list[int], seconds: float) -> int:
    rates: dict[int, Series] = {}
    for count in tried:
        with closing(loading_only(torchvision_batches(bench, count))) as task:
            rates |= take_turns({count: task}, 1, seconds, bench.device)
    return max(tried, key=lambda count: rates[count].median)


def measurable_recipe(recipe: Recipe, device: torch.device, at_once: int = 1) -> Recipe:
    """Return `recipe` with one pass a step, without end, in a precision that `device` has.

    A pass is `at_once` micro-batches.

    Raises `UserError` for a recipe of signals.
    """
    if recipe.input.dimensions == 1:
        raise UserError(
            f"{recipe.network.name} takes signals, which have no benchmark; choose a recipe of "
            "images"
        )
    size = recipe.batch.micro_batch_size
    return recipe.model_copy(
        update={
            "batch": BatchConfig(global_batch_size=at_once * size, micro_batch_size=size),
            "epochs": _ENDLESS,
            "precision": precision_on(device, recipe.precision),
        }
    )
