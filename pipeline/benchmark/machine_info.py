"""The machine that a benchmark ran on."""

from dataclasses import dataclass

import torch


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
    on_gpu = device.type == "cuda"
    return MachineInfo(
        cpu=cpu["cpu_name"],
        num_cores=cpu["num_logical_cores"],
        gpu=torch.cuda.get_device_name(device) if on_gpu else None,
        computes_bfloat16=(
            torch.cuda.is_bf16_supported(including_emulation=False)
            if on_gpu
            else any(has_it for name, has_it in cpu.items() if "bf16" in name)
        ),
    )
