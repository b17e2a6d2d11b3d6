"""Mixed precision, the same for training and evaluation."""

import torch


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which a network computes in `precision`, "float32" or "bfloat16".

    bfloat16 needs no loss scaling, so that this context is all there is to mixed precision. Cast
    weights aren't kept: each is used once in a pass, and CUDA graphs can't be captured with them.
    """
    return torch.autocast(
        device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False
    )
