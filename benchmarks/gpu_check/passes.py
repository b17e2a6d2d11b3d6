"""Section B: what a pass costs the host and the GPU, by network, size and engine."""

import gc
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import cycle, islice, product
from statistics import median

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_check.loading import bench_of
from benchmarks.gpu_check.sections import Case, Figures, Measured, Setting
from pipeline.benchmark.train_steps import first_batches, initial_train_state, steps_of
from pipeline.config.cluster import LoadingConfig
from pipeline.runtime.determinism import computing_on
from pipeline.training.grouped_forward import Engine
from pipeline.training.loop import StepResult

# Network, micro-batch, and the images of a pass.
_SIZES = (
    ("resnet50", 32, (32, 128, 256)),
    ("alexnet", 16, (16, 128)),
    ("vgg16", 32, (32,)),
    ("googlenet", 4, (4, 32)),
)
_WARMUP_STEPS = 5
_TIMED_STEPS = 20


def pass_cases(setting: Setting) -> Iterator[Case]:
    """Take steps of one pass each, on images that are on the device already.

    A pass of several micro-batches is grouped.
    """
    yield from _cases(setting, ("eager", "graphs") if setting.on_gpu else ("eager",))


def compiled_pass_cases(setting: Setting) -> Iterator[Case]:
    """Take the same steps compiled, each of which first takes most of a minute to compile."""
    if setting.on_gpu:
        yield from _cases(setting, ("compile",))


def _cases(setting: Setting, engines: Sequence[Engine]) -> Iterator[Case]:
    sizes = (("smoke", 4, (4, 8)),) if setting.small else _SIZES
    with computing_on(setting.device, deterministic=False):
        for engine, (name, micro_batch, passes) in product(engines, sizes):
            for num_images in passes:
                yield Case(
                    f"{name} {num_images} by {micro_batch}, {engine}",
                    partial(_measure, setting, name, micro_batch, num_images, engine),
                )


def _measure(
    setting: Setting, name: str, micro_batch: int, num_images: int, engine: Engine
) -> Measured:
    loading = LoadingConfig(backend="reference")
    bench = bench_of(setting, name, micro_batch, num_images, loading, engine)
    batches = cycle(first_batches(bench, 1))
    _forget(setting)
    steps = steps_of(bench, initial_train_state(bench), batches)
    started = time.perf_counter()
    _take(steps, 1, setting)
    first = time.perf_counter() - started
    few = setting.small
    _take(steps, 1 if few else _WARMUP_STEPS, setting)
    waits = [_host_seconds(steps, setting) for _ in range(3 if few else 7)]
    count = 2 if few else _TIMED_STEPS
    started = time.perf_counter()
    _take(steps, count, setting)
    each = (time.perf_counter() - started) / count
    figures: Figures = {
        "ms a pass": each * 1e3,
        "images/s": num_images / each,
        "host ms": median(waits) * 1e3,
        "first s": first,
    }
    figures |= _profiled(steps, setting)
    if setting.on_gpu:
        figures["GB"] = torch.cuda.max_memory_allocated() / 1e9
    return Measured(figures)


def _forget(setting: Setting) -> None:
    """Leave nothing of the case before: compiled code, memory."""
    torch._dynamo.reset()
    gc.collect()
    if setting.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _take(steps: Iterator[StepResult], count: int, setting: Setting) -> None:
    for _ in islice(steps, count):
        pass
    _synchronize(setting)


def _host_seconds(steps: Iterator[StepResult], setting: Setting) -> float:
    """Return how long the host takes to queue a step on a GPU that has nothing else to do."""
    started = time.perf_counter()
    next(steps)
    queued = time.perf_counter() - started
    _synchronize(setting)
    return queued


def _profiled(steps: Iterator[StepResult], setting: Setting) -> Figures:
    """Return how many operations and launches a step is, and how long the GPU's kernels take."""
    count = 1 if setting.small else 3
    activities = [ProfilerActivity.CPU]
    if setting.on_gpu:
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        _take(steps, count, setting)
    operations = launches = 0
    microseconds = 0.0
    for event in profiler.key_averages():
        if event.device_type == DeviceType.CUDA:
            if not event.is_user_annotation:  # it spans kernels, which are counted themselves
                microseconds += event.self_device_time_total
        elif event.key.startswith("aten::"):
            operations += event.count
        elif "LaunchKernel" in event.key or event.key == "cudaGraphLaunch":
            launches += event.count
    figures: Figures = {"operations": operations // count}
    if setting.on_gpu:
        figures |= {"launches": launches // count, "GPU ms": microseconds / count / 1e3}
    return figures


def _synchronize(setting: Setting) -> None:
    if setting.on_gpu:
        torch.cuda.synchronize()
