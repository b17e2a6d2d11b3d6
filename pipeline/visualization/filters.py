"""The filters of the first convolution, the only ones applied to pixels."""

import math
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipeline.runtime.errors import UserError
from pipeline.visualization.image_grid import enlarged, grid, to_pixels

_WIDTH, _LARGEST = 720, 120  # of the grid, and of a filter, in pixels


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


def filters_image(filters: Tensor) -> Image.Image:
    """Return filters as a grid, each weight a square; AlexNet's 96 as in its paper's Figure 3.

    There, 16 are in a row, so that the upper half is of the first GPU, the lower of the second. The
    grid is about 720 pixels wide.
    """
    count, width = len(filters), filters.shape[-1]
    columns = 16 if count == 96 else count if count < 8 else math.ceil(math.sqrt(count))
    side = max(1, min(_LARGEST, _WIDTH // columns) // width) * width
    return grid(
        [enlarged(to_pixels(f), side, smooth=False) for f in filter_images(filters)], columns
    )


def filter_images(filters: Tensor) -> Tensor:
    """Return filters as images in 0–1, each scaled by its own largest weight; 0 is grey."""
    largest = filters.abs().amax(dim=(1, 2, 3), keepdim=True)
    return 0.5 + 0.5 * filters / torch.where(largest > 0, largest, 1.0)
