"""Results of `ilsvrc benchmark`, from which `ilsvrc plan` corrects its model.

A file each in `benchmarks/` of the cluster's runs_dir; JSON, safe to delete.
"""

import time
from pathlib import Path
from typing import Literal

from pydantic import PositiveFloat, PositiveInt, ValidationError

from pipeline.config.recipe import Recipe
from pipeline.config.yaml import Section
from pipeline.planning.step_cost import WorkerHardware
from pipeline.runtime.storage import write_atomically


class MeasuredSpeed(Section):
    """Medians of one benchmark and its machine; `recipe` is as measured, with one micro-batch."""

    date: str
    recipe: Recipe
    machine: str
    device: Literal["cpu", "gpu"]
    cpus: PositiveInt
    threads: PositiveInt
    step_images_per_second: PositiveFloat
    loader_images_per_second: PositiveFloat


def keep_measurement(runs_dir: Path, measured: MeasuredSpeed) -> Path:
    """Write `measured` where plans look for it, over one of the same network and device."""
    folder = runs_dir / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{measured.recipe.network.name}-{measured.device}.json"
    write_atomically(path, (measured.model_dump_json(indent=2) + "\n").encode())
    return path


def newest_measurement(
    runs_dir: Path, recipe: Recipe, machine: WorkerHardware
) -> MeasuredSpeed | None:
    """Return the newest measurement on the machine's device, one of this network if there is any.

    A file that can't be read, for example one of another version, is skipped.
    """
    found = []
    for path in sorted((runs_dir / "benchmarks").glob("*.json")):
        try:
            measured = MeasuredSpeed.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            continue
        if _is_of_device(measured, machine) and measured.recipe.precision == recipe.precision:
            found.append(measured)
    return max(
        found,
        key=lambda measured: (measured.recipe.network == recipe.network, measured.date),
        default=None,
    )


def now() -> str:
    return time.strftime("%Y-%m-%d %H:%M")


def _is_of_device(measured: MeasuredSpeed, machine: WorkerHardware) -> bool:
    if not machine.is_gpu:
        return measured.device == "cpu"
    return measured.device == "gpu" and machine.device.reported_as in measured.machine
