"""Section F: DALI and a network end to end, against the slower of the two alone."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from itertools import cycle, product

from benchmarks.gpu_check.loading import bench_of
from benchmarks.gpu_check.sections import Case, Measured, Setting
from pipeline.benchmark.timing import take_turns
from pipeline.benchmark.train_steps import (
    first_batches,
    loading_only,
    open_loader,
    training_steps,
)
from pipeline.config.cluster import LoadingConfig
from pipeline.runtime.determinism import computing_on
from pipeline.training.grouped_forward import Engine


def together_cases(setting: Setting) -> Iterator[Case]:
    """Train on what DALI loads meanwhile."""
    networks = (
        (("smoke", 4, 8),) if setting.small else (("resnet50", 32, 256), ("alexnet", 16, 128))
    )
    engines: tuple[Engine, ...] = ("eager", "graphs") if setting.on_gpu else ("eager",)
    with computing_on(setting.device, deterministic=False):
        for (name, micro_batch, num_images), engine in product(networks, engines):
            yield Case(
                f"{name} {num_images} by {micro_batch}, {engine}",
                partial(_together, setting, name, micro_batch, num_images, engine),
            )


def _together(
    setting: Setting, name: str, micro_batch: int, num_images: int, engine: Engine
) -> Measured:
    loading = LoadingConfig(threads=1 if setting.small else 8)
    bench = bench_of(setting, name, micro_batch, num_images, loading, engine)
    with ExitStack() as stack:
        loaders = [stack.enter_context(closing(open_loader(bench))) for _ in range(2)]
        tasks = {
            "loader": loading_only(loaders[0]),
            "steps": training_steps(bench, cycle(first_batches(bench, 1))),
            "together": training_steps(bench, loaders[1]),
        }
        seconds = 0.2 if setting.small else 0.8
        rates = take_turns(tasks, 1 if setting.small else 3, seconds, setting.device)
    ratio = rates["together"].over(rates["loader"].slower(rates["steps"]))
    return Measured(
        {
            **{f"{task} images/s": rate.median for task, rate in rates.items()},
            "together ÷ slower": ratio.median,
            "lowest": ratio.lowest,
            "highest": ratio.highest,
        }
    )
