"""Top-k hits of scores, and the ranks and classes they are counted by."""

import torch
from torch import Tensor


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Return how many classes are guessed before each image's label, int64 (n,).

    `scores` (logits or probabilities) is floating point (n, c), `labels` int64 (n,) on the same
    device. Of equal scores the lower class is guessed first, on every device; a NaN counts as
    higher than any label's score, so that a network that diverged hits nothing. An unknown label,
    −1, has the rank c.
    """
    num_classes = scores.shape[1]
    column = labels[:, None]
    own = scores.gather(1, column.clamp(min=0))
    is_lower_class = torch.arange(num_classes, device=scores.device) < column
    is_ahead = torch.where(is_lower_class, ~(scores < own), ~(scores <= own))
    return torch.where(labels < 0, num_classes, is_ahead.sum(dim=1))


def topk_hits(scores: Tensor, labels: Tensor) -> Tensor:
    """Count the images whose label is the highest, and among the five highest, of the scores.

    By `label_ranks`; the result is int64 (2,) on their device. As in the devkit's `eval_flat.m`, a
    label either is among the guesses or not. With fewer than five classes all of them are guessed.
    """
    ranks = label_ranks(scores, labels)
    return torch.stack([(ranks < k).sum() for k in (1, min(5, scores.shape[1]))])


def topk_classes(scores: Tensor, count: int) -> Tensor:
    """Return the `count` classes of the highest scores, highest first, int64 (n, at most c).

    Of equal scores the lower class comes first: `argmax` promises that, and `topk` doesn't.
    """
    left = scores.clone()
    guesses = []
    for _ in range(min(count, scores.shape[1])):
        guesses.append(left.argmax(dim=1, keepdim=True))
        left.scatter_(1, guesses[-1], -torch.inf)
    return torch.cat(guesses, dim=1)
