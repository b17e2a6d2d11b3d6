"""Where in an image a network finds its class: what its belief loses when a part is covered.

Zeiler & Fergus (ECCV 2014), §4.2: a grey square goes over the image, and for each of its places the
probability of the true class is kept.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Occlusion:
    """`probabilities` (rows, columns) of the class with a square of `side` pixels in each place.

    The squares' upper left corners stand at `starts` along either axis; `without` is the
    probability of the image as it is.
    """

    side: int
    starts: tuple[int, ...]
    without: float
    probabilities: Tensor


@torch.no_grad()
def occlude(
    model: nn.Module, image: Tensor, label: int, places: int = 12, batch_size: int = 48
) -> Occlusion:
    """Cover `image`, (c, h, w) with h = w, by a square of a fifth of its side in `places`² places.

    The square has the data's mean, 0 once normalized. The model must be in `eval` mode.
    """
    size = image.shape[-1]
    side = max(1, round(size / 5))
    starts = tuple(round(i * (size - side) / (places - 1)) for i in range(places))
    corners = [(top, left) for top in starts for left in starts]
    found = [_probabilities(model, image[None], label)]
    for first in range(0, len(corners), batch_size):
        covered = torch.stack(
            [_covered(image, *corner, side) for corner in corners[first : first + batch_size]]
        )
        found.append(_probabilities(model, covered, label))
    without, *others = torch.cat(found).tolist()
    return Occlusion(side, starts, without, torch.tensor(others).view(places, places))


def _covered(image: Tensor, top: int, left: int, side: int) -> Tensor:
    covered = image.clone()
    covered[:, top : top + side, left : left + side] = 0
    return covered


def _probabilities(model: nn.Module, images: Tensor, label: int) -> Tensor:
    return model(images).float().softmax(dim=1)[:, label]
