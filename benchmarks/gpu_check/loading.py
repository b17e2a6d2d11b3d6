"""Sections C and E: images stay whole while a slow consumer reads them; the loader's speed."""

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import islice

import torch

from benchmarks.gpu_check.pictures import open_pictures
from benchmarks.gpu_check.sections import Case, Measured, Setting
from pipeline.benchmark.timing import take_turns
from pipeline.benchmark.train_steps import Bench, loading_only, open_loader
from pipeline.config.cluster import LoadingConfig
from pipeline.config.recipe import Recipe, load_recipe
from pipeline.training.grouped_forward import Engine

# The size of a batch, and how it is loaded.
_LOADS = {
    **{f"{size} a batch": (size, LoadingConfig(threads=8)) for size in (32, 128, 256)},
    **{f"{threads} threads": (128, LoadingConfig(threads=threads)) for threads in (2, 4, 16)},
    **{
        f"decoder load {load}": (128, LoadingConfig(threads=8, hw_decoder_load=load))
        for load in (0.0, 0.5, 0.8, 1.0)
    },
    "decoder cpu": (128, LoadingConfig(threads=16, decoder="cpu")),
}
_SMALL_LOADS = {"8 a batch": (8, LoadingConfig())}

_CYCLES = 300_000_000  # of a GPU that does nothing: about 0.2 s


def overwrite_cases(setting: Setting) -> Iterator[Case]:
    """Load while what reads the images is still queued behind a sleeping kernel."""
    for batch_size in (4,) if setting.small else (32, 128):
        yield Case(f"{batch_size} images a batch", partial(_overwrite, setting, batch_size))


def _overwrite(setting: Setting, batch_size: int) -> Measured:
    bench = loading_bench(setting, batch_size, LoadingConfig(threads=4))
    num_batches = 3 if setting.small else 12
    with closing(open_loader(bench)) as batches:
        expected = [batch.images.cpu() for batch in islice(batches, num_batches)]
    copies = []
    with closing(open_loader(bench)) as batches:
        for batch in islice(batches, num_batches):
            if setting.on_gpu:
                torch.cuda._sleep(_CYCLES)
            copies.append(batch.images.clone())  # queued: it is read when the GPU has woken
    grey_levels = max(bench.recipe.input.std)
    worst = grey_levels * max(
        float((copy.cpu() - right).abs().mean(dim=(1, 2, 3)).max())
        for copy, right in zip(copies, expected, strict=True)
    )
    # Another image differs by tens of grey levels, one that is decoded elsewhere by less than two.
    return Measured({"worst image": worst}, holds=worst < 2)


def speed_cases(setting: Setting) -> Iterator[Case]:
    """Load alone, in one way after the other."""
    for name, (batch_size, loading) in (_SMALL_LOADS if setting.small else _LOADS).items():
        yield Case(name, partial(_speed, setting, batch_size, loading))


def _speed(setting: Setting, batch_size: int, loading: LoadingConfig) -> Measured:
    bench = loading_bench(setting, batch_size, loading)
    seconds = 0.1 if setting.small else 0.5
    with closing(open_loader(bench)) as batches:
        rates = take_turns({0: loading_only(batches)}, 3, seconds, setting.device)[0]
    return Measured({"images/s": rates.median, "lowest": rates.lowest, "highest": rates.highest})


def loading_bench(setting: Setting, batch_size: int, loading: LoadingConfig) -> Bench:
    """Return what loads batches of `batch_size` as ResNet-50's training does, without end."""
    return bench_of(setting, "resnet50", batch_size, batch_size, loading)


def bench_of(
    setting: Setting,
    name: str,
    micro_batch: int,
    num_images: int,
    loading: LoadingConfig,
    engine: Engine = "eager",
) -> Bench:
    """Return recipe `name` on the pictures, a pass of `num_images` a step, without end."""
    batch = f"batch={{global_batch_size: {num_images}, micro_batch_size: {micro_batch}}}"
    return Bench(
        endless(load_recipe(name, [batch])),
        open_pictures(setting.folder / "pictures"),
        loading,
        channels_last=True,
        device=setting.device,
        engine=engine,
    )


def endless(recipe: Recipe) -> Recipe:
    """Return the recipe with more epochs than are measured."""
    return recipe.model_copy(update={"epochs": 10**9})
