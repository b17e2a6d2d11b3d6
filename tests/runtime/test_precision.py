"""Which precision is used: bfloat16 where the devices of all workers compute it."""

import re
from pathlib import Path

import pytest
import torch
from two_workers import start_two_workers

from pipeline.runtime import precision
from pipeline.runtime.distributed import Worker
from pipeline.runtime.precision import computes_bfloat16, precision_of_all, precision_on

CPU = torch.device("cpu")


def test_a_cpu_computes_bfloat16_by_its_flags() -> None:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    assert flags
    has_it = {"avx512_bf16", "amx_bf16", "bf16"} & set(flags[1].split())
    assert computes_bfloat16(CPU) == bool(has_it)


@pytest.mark.parametrize(
    ("capability", "has_it"), [((7, 5), False), ((8, 0), True), ((9, 0), True)]
)
def test_a_gpu_computes_bfloat16_since_ampere(
    capability: tuple[int, int], has_it: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    gpu = torch.device("cuda", 3)
    assert computes_bfloat16(gpu) == has_it
    assert precision_on(gpu, "bfloat16") == ("bfloat16" if has_it else "float32")
    assert precision_on(gpu, "float32") == "float32"


def write_used(rank: int, folder: Path) -> None:
    """Write what is used where the device of worker 0 lacks bfloat16, of worker 1, and of none."""
    used = []
    for lacking in (0, 1, 2):
        precision.computes_bfloat16 = lambda device, lacking=lacking: rank != lacking
        used.append(precision_of_all(Worker(rank, 2, CPU), "bfloat16"))
    (folder / str(rank)).write_text(" ".join(used))


def test_all_workers_use_what_all_have(tmp_path: Path) -> None:
    for worker in start_two_workers(write_used, tmp_path):
        worker.join(100)
    used = [(tmp_path / str(rank)).read_text() for rank in (0, 1)]
    assert used == ["float32 float32 bfloat16"] * 2
