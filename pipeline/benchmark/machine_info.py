"""The machine that a figure was measured on."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class MachineInfo:
    """`computes_bfloat16` says whether the device has instructions for it, or only imitates it."""

    cpu: str
    num_cores: int
    gpu: str | None
    computes_bfloat16: bool


def machine_info(device: torch.device) -> MachineInfo:
    """Say what this machine is, as seen from what computes on `device`."""
    cpu = torch.cpu.get_capabilities()
    on_gpu = device.type == "cuda"
    return MachineInfo(
        cpu=cpu["cpu_name"],
        num_cores=cpu["num_logical_cores"],
        gpu=torch.cuda.get_device_name(device) if on_gpu else None,
        computes_bfloat16=(
            torch.cuda.is_bf16_supported(including_emulation=False)
            if on_gpu
            else any(there for name, there in cpu.items() if "bf16" in name)
        ),
    )
