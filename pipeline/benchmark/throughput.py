"""How many images a second one worker loads, trains on, and both at once.

- `loader`: the loader of a training alone, thrown away as it comes.
- `step`: the training loop alone, on batches that are in the device's memory.
- `together`: the training loop on the loader.
- `plain_step`: as `step`, in float32 and the contiguous layout.
- `without_norm`: as `step`, of the network without its response normalization, where it has one.

The loader has `loading.threads` threads, the step `workers.cpus`, alone as together; so where the
machine has cores for both, nothing but waiting and traffic can make `together` slower than the
slower of the two. On a GPU the step needs the CPU hardly at all.
"""

import itertools
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from pipeline.benchmark.baselines import augmentation_of, numbers_of_workers, torchvision_batches
from pipeline.benchmark.loader_memory import LoaderMemory, measure_memory
from pipeline.benchmark.machine_info import MachineInfo, machine_info
from pipeline.benchmark.sample_images import write_pictures
from pipeline.benchmark.timing import ProgressCallback, Series, TimedTask, take_turns
from pipeline.benchmark.train_steps import (
    Bench,
    first_batches,
    loading_only,
    open_loader,
    stepping,
)
from pipeline.config.cluster import Cluster
from pipeline.config.recipe import BatchConfig, Recipe
from pipeline.models.response_norm import ResponseNorm
from pipeline.models.zoo import build_model
from pipeline.planning.measured_speed import MeasuredSpeed, now
from pipeline.runtime.distributed import device_here, threads
from pipeline.runtime.errors import UserError

_BATCHES_IN_MEMORY = 4
_EPOCHS_OF_MEMORY = 20
_ENDLESS = 10**9  # epochs


@dataclass(frozen=True)
class Baseline:
    """torchvision's loading of the same pictures, with the fastest of the `tried` workers."""

    rates: Series
    num_workers: int
    tried: tuple[int, ...]
    augmentation: str


@dataclass(frozen=True)
class Benchmark:
    """Images per second, a value a round; `recipe` and `cluster` are as they were measured."""

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
    peer: Baseline | None

    def measured_speed(self) -> MeasuredSpeed:
        """Return what a plan wants to know of it."""
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
    """Measure in `rounds` rounds with turns of `seconds`, on pictures made for the occasion.

    `num_images` different pictures, rounded up to whole micro-batches, are taken again and again;
    the recipe's own data isn't touched. `against` may be "torchvision". bfloat16 becomes float32
    on a device that only imitates it. Raises `UserError` for an unknown peer, a network of signals
    or one that doesn't fit its input, and a GPU that isn't there.
    """
    if against not in (None, "torchvision"):
        raise UserError(f"--against {against}: not a known peer; there is: torchvision")
    device = device_here(cluster.workers.device)
    machine = machine_info(device)
    recipe = as_measured(recipe, machine)
    each = recipe.batch.micro_batch_size
    num_images = -(-num_images // each) * each
    with TemporaryDirectory(prefix="ilsvrc-") as folder, threads(cluster.workers.cpus):
        split = write_pictures(Path(folder) / "pictures", num_images, recipe.network.num_classes)
        bench = Bench(recipe, split, cluster.loading, cluster.channels_last, device)
        memory = measure_memory(bench, _EPOCHS_OF_MEMORY)
        tried = numbers_of_workers(cluster.loading.threads) if against else []
        num_workers = _fastest(bench, tried, seconds) if tried else None
        with ExitStack() as stack:
            subjects = {
                name: stack.enter_context(closing(subject))
                for name, subject in _subjects(bench, num_workers).items()
            }
            rates = take_turns(
                subjects,
                rounds,
                seconds,
                device,
                progress,
                steady=("step", "plain step", "without norm"),
            )
        peer = None
        if num_workers is not None:
            names = [type(step).__name__ for step in augmentation_of(bench).transforms]
            peer = Baseline(rates["peer"], num_workers, tuple(tried), ", ".join(names))
    return Benchmark(
        recipe=recipe,
        cluster=cluster,
        machine=machine,
        num_images=num_images,
        memory=memory,
        loader=rates["loader"],
        step=rates["step"],
        plain_step=rates["plain step"],
        without_norm=rates.get("without norm"),
        together=rates["together"],
        peer=peer,
    )


def _subjects(bench: Bench, num_workers: int | None) -> dict[str, TimedTask]:
    subjects = {"loader": loading_only(open_loader(bench))}
    if num_workers is not None:
        subjects["peer"] = loading_only(torchvision_batches(bench, num_workers))
    batches = first_batches(bench, _BATCHES_IN_MEMORY)
    plain = replace(
        bench, recipe=bench.recipe.model_copy(update={"precision": "float32"}), channels_last=False
    )
    plain_batches = [replace(batch, images=batch.images.contiguous()) for batch in batches]
    subjects["together"] = stepping(bench, open_loader(bench))
    subjects["step"] = stepping(bench, itertools.cycle(batches))
    subjects["plain step"] = stepping(plain, itertools.cycle(plain_batches))
    if _has_response_norm(bench.recipe):
        subjects["without norm"] = stepping(bench, itertools.cycle(batches), without=ResponseNorm)
    return subjects


def _has_response_norm(recipe: Recipe) -> bool:
    with torch.device("meta"):
        layers = build_model(recipe.network, recipe.input).modules()
    return any(isinstance(layer, ResponseNorm) for layer in layers)


def _fastest(bench: Bench, tried: list[int], seconds: float) -> int:
    rates: dict[int, Series] = {}
    for number in tried:
        with closing(loading_only(torchvision_batches(bench, number))) as subject:
            rates |= take_turns({number: subject}, 1, seconds, bench.device)
    return max(tried, key=lambda number: rates[number].median)


def as_measured(recipe: Recipe, machine: MachineInfo) -> Recipe:
    """Return what is measured of a recipe; raises `UserError` for one of signals."""
    if recipe.input.dimensions == 1:
        raise UserError(
            f"{recipe.network.name} takes signals, which have no benchmark; choose a recipe of "
            "images"
        )
    each = recipe.batch.micro_batch_size
    return recipe.model_copy(
        update={
            "batch": BatchConfig(global_batch_size=each, micro_batch_size=each),
            "epochs": _ENDLESS,
            "precision": recipe.precision if machine.computes_bfloat16 else "float32",
        }
    )
