"""The loss that a training minimises."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.config import optimization
from pipeline.models.classifier import WithAuxiliary


def main_logits(output: Tensor | WithAuxiliary) -> Tensor:
    """Return the logits, float32 (n, c), without those of auxiliary classifiers."""
    return (output.logits if isinstance(output, WithAuxiliary) else output).float()


def summed_loss(settings: optimization.LossConfig, logits: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of `logits`, (n, c), summed over the images.

    `targets` are labels, int64 (n,), or shares of the classes, float (n, c), each row adding to 1.
    """
    if settings.kind == "map":
        # Eq. (9) of LeCun et al. 1998: logits are minus distances. The junk class, at a fixed
        # distance, keeps the network from pushing away classes that are far enough already.
        junk = torch.full_like(logits[:, :1], -settings.junk_distance)
        others = torch.cat([logits, junk], dim=1).logsumexp(dim=1)
        return (others - logits.gather(1, targets[:, None])[:, 0]).sum()
    return F.cross_entropy(
        logits, targets, label_smoothing=settings.label_smoothing, reduction="sum"
    )


def objective(
    settings: optimization.LossConfig, output: Tensor | WithAuxiliary, targets: Tensor
) -> Tensor:
    """Return the loss plus the weighted loss of each auxiliary classifier, for the gradient."""
    total = summed_loss(settings, main_logits(output), targets)
    if isinstance(output, WithAuxiliary):
        for logits in output.auxiliary:
            total = total + settings.auxiliary_weight * summed_loss(
                settings, logits.float(), targets
            )
    return total
