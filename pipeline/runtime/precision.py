"""Mixed precision, the same for training, evaluation, replay and benchmark.

bfloat16 is used where the device computes it natively. Elsewhere PyTorch would imitate it, many
times slower than float32, which is used in its place: the two differ by rounding, as two devices
do. float16, which older GPUs have, is not offered: its range needs loss scaling.
"""

import torch

from pipeline.runtime.distributed import Worker, is_so_on_all_workers

BFLOAT16_CAPABILITY = (8, 0)  # of the first GPUs with bfloat16, Ampere's


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which a network computes in `precision`, "float32" or "bfloat16".

    bfloat16 needs no loss scaling, so that this context is all there is to mixed precision. Cast
    weights aren't kept: each is used once in a pass, and CUDA graphs can't be captured with them.
    """
    return torch.autocast(
        device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False
    )


def computes_bfloat16(device: torch.device) -> bool:
    """Whether `device` has instructions for it.

    GPUs have since Ampere; CPUs with AVX512-BF16, AMX or Arm's BF16 have.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= BFLOAT16_CAPABILITY
    return any(has_it for name, has_it in torch.cpu.get_capabilities().items() if "bf16" in name)


def precision_on(device: torch.device, precision: str) -> str:
    """Return the precision that is used on `device` where `precision` is asked for."""
    return "float32" if precision == "bfloat16" and not computes_bfloat16(device) else precision


def precision_of_all(worker: Worker, precision: str) -> str:
    """Return the precision that is used on all workers. A collective call.

    bfloat16 only where the devices of all compute it, for they average one gradient.
    """
    has_it = precision_on(worker.device, precision) == precision
    return precision if is_so_on_all_workers(has_it, worker) else "float32"
