"""The filters of the first convolution, the only ones applied to pixels."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipeline.runtime.errors import UserError


def first_convolution(model: nn.Module) -> str:
    """Return the name of the first convolution over images; raise `UserError` if there is none."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            return name
    raise UserError("the network has no convolution over images, so no filters to show")


def first_layer_filters(model: nn.Module) -> Tensor:
    """Return the weights of the first convolution, float32 (filters, c, h, w), c 1 or 3."""
    layer = model.get_submodule(first_convolution(model))
    assert isinstance(layer, nn.Conv2d)
    return layer.weight.detach().float().cpu()


def read_filters(weights: Path, model: nn.Module) -> Tensor:
    """Read the filters of `model` from a file of its weights (safetensors), and no other weights.

    The model may be on the meta device. Raises `UserError` if the file has no such weights.
    """
    name = f"{first_convolution(model)}.weight"
    try:
        with safe_open(weights, "pt") as file:
            return file.get_tensor(name).float()
    except (OSError, SafetensorError) as error:
        raise UserError(f"{weights}: {name} can't be read ({error})") from None


def filter_images(filters: Tensor) -> Tensor:
    """Return filters as images in 0–1, each scaled by its own largest weight; 0 is grey."""
    largest = filters.abs().amax(dim=(1, 2, 3), keepdim=True)
    return 0.5 + 0.5 * filters / torch.where(largest > 0, largest, 1.0)
