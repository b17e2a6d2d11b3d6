"""The machine that a benchmark ran on."""

from dataclasses import dataclass

import torch

from pipeline.runtime.precision import computes_bfloat16


@dataclass(frozen=True)
class MachineInfo:
    """CPU and GPU; `computes_bfloat16`: whether the device has instructions for it."""

    cpu: str
    num_cores: int
    gpu: str | None
    computes_bfloat16: bool


def machine_info(device: torch.device) -> MachineInfo:
    """Describe this machine for what computes on `device`."""
    cpu = torch.cpu.get_capabilities()
    return MachineInfo(
        cpu=cpu["cpu_name"],
        num_cores=cpu["num_logical_cores"],
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        computes_bfloat16=computes_bfloat16(device),
    )
