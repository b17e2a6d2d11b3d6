"""Files of weights: safetensors, or torch's own format, read without executing anything in it."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.runtime.errors import UserError


def read_weights(file: Path) -> Mapping[str, Tensor]:
    """Read a state dict onto the CPU; raise `UserError` for a file that holds anything else."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that torch didn't write
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{file}: can't be read ({error.strerror or error})") from None
    except Exception:  # damaged pickles raise many kinds
        content = None
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise UserError(f"{file}: holds no weights (a state dict of tensors); nothing was executed")
    return content
