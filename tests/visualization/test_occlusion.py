import torch
from torch import Tensor, nn

from pipeline.visualization.occlusion import occlude


class OnePixel(nn.Module):
    """The logit of class 1 is the brightness of the pixel at (12, 3)."""

    def forward(self, images: Tensor) -> Tensor:
        brightness = images[:, 0, 12, 3]
        return torch.stack([torch.zeros_like(brightness), brightness], dim=1)


def test_the_probability_falls_exactly_where_the_square_covers_the_decisive_pixel() -> None:
    found = occlude(
        OnePixel(), torch.full((1, 20, 20), 3.0), label=1, num_positions=9, batch_size=7
    )
    assert (found.side, found.starts) == (4, (0, 2, 4, 6, 8, 10, 12, 14, 16))
    covers = torch.tensor(
        [[top <= 12 < top + 4 and left <= 3 < left + 4 for left in found.starts]
         for top in found.starts]
    )  # fmt: skip
    assert covers.sum() == 4
    assert torch.equal(found.probabilities == 0.5, covers)
    assert torch.allclose(found.probabilities[~covers], torch.tensor(found.uncovered))
