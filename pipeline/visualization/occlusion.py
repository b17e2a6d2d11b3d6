"""Occlusion maps: how much the probability of the true class falls when parts are covered.

Zeiler & Fergus (ECCV 2014), §4.2: a grey square is moved over the image, and for each of its
positions the probability of the true class is recorded.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Occlusion:
    """`probabilities` (rows, columns) of the class with a square of `side` pixels at each position.

    The squares' upper left corners are at `starts` along either axis; `uncovered` is the
    probability for the image as it is.
    """

    side: int
    starts: tuple[int, ...]
    uncovered: float
    probabilities: Tensor


@torch.no_grad()
def occlude(
    model: nn.Module, image: Tensor, label: int, num_positions: int = 12, batch_size: int = 48
) -> Occlusion:
    """Cover `image`, (c, h, w) with h = w, with a square of a fifth of its side.

    It is moved to `num_positions`² positions.

    Its value is the data's mean, 0 after normalization. The model must be in `eval` mode.
    """
    size = image.shape[-1]
    side = max(1, round(size / 5))
    starts = tuple(round(i * (size - side) / (num_positions - 1)) for i in range(num_positions))
    corners = [(top, left) for top in starts for left in starts]
    results = [_probabilities(model, image[None], label)]
    for first in range(0, len(corners), batch_size):
        covered = torch.stack(
            [_covered(image, *corner, side) for corner in corners[first : first + batch_size]]
        )
        results.append(_probabilities(model, covered, label))
    uncovered, *others = torch.cat(results).tolist()
    probabilities = torch.tensor(others).view(num_positions, num_positions)
    return Occlusion(side, starts, uncovered, probabilities)


def _covered(image: Tensor, top: int, left: int, side: int) -> Tensor:
    covered = image.clone()
    covered[:, top : top + side, left : left + side] = 0
    return covered


def _probabilities(model: nn.Module, images: Tensor, label: int) -> Tensor:
    return model(images).float().softmax(dim=1)[:, label]
