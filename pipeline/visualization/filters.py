"""The filters of the first convolution, the only ones that live among pixels."""

import torch
from torch import Tensor, nn

from pipeline.errors import UserError


def first_layer_filters(weights: nn.Module | dict[str, Tensor]) -> Tensor:
    """Return the weights of the first convolution of a network, (filters, c, h, w), c 1 or 3.

    Of a state dict, those of its first four-dimensional entry. Raises `UserError` where there is
    none.
    """
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    for name, value in state.items():
        if name.endswith("weight") and value.dim() == 4:
            return value.detach().float().cpu()
    raise UserError("the network has no convolution over images, so no filters to show")


def filter_pictures(filters: Tensor) -> Tensor:
    """Return filters as pictures in 0–1, each scaled by its own largest weight; a weight of 0 is
    grey."""
    largest = filters.abs().amax(dim=(1, 2, 3), keepdim=True)
    return 0.5 + 0.5 * filters / torch.where(largest > 0, largest, 1.0)
