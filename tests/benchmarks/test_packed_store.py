"""`python -m benchmarks.packed_store`: what it measures, and that it runs from a clone."""

import subprocess
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from rich.console import Console

from benchmarks.packed_store import StoreBenchmark, store_notes, store_table
from benchmarks.packing_speed import _cpu_seconds, measure_packing
from benchmarks.reading_speed import measure_opening, measure_reading
from pipeline.benchmark.machine_info import machine_info
from pipeline.benchmark.sample_images import write_sample_images
from pipeline.benchmark.train_steps import Bench
from pipeline.config.cluster import LoadingConfig
from pipeline.config.recipe import load_recipe

CPU = torch.device("cpu")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_packing_opening_and_reading_are_measured(tmp_path: Path, ray_session: None) -> None:
    pictures = write_sample_images(tmp_path / "pictures", 40, num_classes=10)
    recipe = load_recipe(
        "smoke", ["data.name=pictures", "batch={global_batch_size: 8, micro_batch_size: 8}"]
    ).model_copy(update={"epochs": 10**9})
    bench = Bench(recipe, pictures, LoadingConfig(), channels_last=True, device=CPU)
    shown: list[tuple[int, int]] = []
    packing = measure_packing(
        pictures, tmp_path, rounds=1, num_workers=1, progress=lambda *numbers: shown.append(numbers)
    )
    assert shown == [(1, 1)]
    assert not (tmp_path / "packed").exists()
    assert packing.ours.median > 0 < packing.torchvision_per_cpu.median
    opening = measure_opening(tmp_path / "large", num_rows=3000, rounds=1)
    assert opening.num_rows == 3000
    reading = measure_reading(
        bench, tmp_path / "loose", rounds=1, seconds=0.02, progress=lambda done, total: None
    )
    loose = sorted((tmp_path / "loose").iterdir())
    assert [file.read_bytes() for file in loose] == [
        pictures.encoded(i).tobytes() for i in np.argsort(pictures.keys)
    ]
    result = StoreBenchmark(recipe, machine_info(CPU), 40, packing, opening, reading)
    console = Console(width=100)
    with console.capture() as table:
        console.print(store_table(result))
    for part in ("pack ÷ extract, then decode", "bytes in random order", "training lenet5_modern"):
        assert part in table.get()
    assert "opening 3,000 rows took" in "\n".join(store_notes(result))


def test_a_child_process_that_ends_while_it_is_measured_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        gone = psutil.Process(child.pid)
        child.kill()
    monkeypatch.setattr(psutil.Process, "children", lambda me, recursive: [gone])
    assert _cpu_seconds() > 0
