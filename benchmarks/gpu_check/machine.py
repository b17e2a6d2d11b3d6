"""What is here, and the pictures that the sections load."""

import platform
from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu_check.pictures import write_pictures
from benchmarks.gpu_check.sections import Case, Figures, Measured, Setting
from pipeline.benchmark.machine_info import machine_info


def machine_cases(setting: Setting) -> Iterator[Case]:
    """Name the device and the versions, and draw the pictures."""
    yield Case("versions", partial(_versions, setting))
    yield Case("pictures", partial(_draw, setting))


def _versions(setting: Setting) -> Measured:
    machine = machine_info(setting.device)
    figures: Figures = {
        "device": machine.gpu or machine.cpu,
        "cores": machine.num_cores,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if setting.on_gpu:
        figures["GB"] = torch.cuda.get_device_properties(setting.device).total_memory / 1e9
    if setting.has_dali:
        from pipeline.data.loading.dali import dali_versions

        figures["dali"] = dali_versions()[0]
    return Measured(figures)


def _draw(setting: Setting) -> Measured:
    split = write_pictures(setting.folder / "pictures", 32 if setting.small else 512)
    size = sum(map(len, split.encoded_batch(list(range(len(split)))))) / len(split)
    return Measured({"pictures": len(split), "kB each": size / 1e3})
