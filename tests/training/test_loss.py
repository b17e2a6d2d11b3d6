"""The loss, against its formulas by hand."""

import math

import pytest
import torch
from torch import nn

from pipeline.config.optimization import LossConfig
from pipeline.models.classifier import WithAuxiliary
from pipeline.training.loss import main_logits, objective, summed_loss

LOGITS = torch.tensor([[-1.0, -4.0, -9.0], [-2.0, -0.5, -3.0]])
LABELS = torch.tensor([0, 2])


def test_cross_entropy_is_a_sum_over_images() -> None:
    got = summed_loss(LossConfig(), LOGITS, LABELS)
    assert got.item() == pytest.approx(2 * nn.functional.cross_entropy(LOGITS, LABELS).item())


def test_the_map_loss_is_equation_9_of_lecun() -> None:
    """E = y_label + log(e^-j + sum of e^-y): distances y = 1, 4, 9 and 2, 0.5, 3; j = 2."""
    expected = sum(
        label + math.log(math.exp(-2) + sum(math.exp(-y) for y in distances))
        for label, distances in ((1, (1, 4, 9)), (3, (2, 0.5, 3)))
    )
    got = summed_loss(LossConfig(kind="map", junk_distance=2.0), LOGITS, LABELS)
    assert got.item() == pytest.approx(expected, rel=1e-6)


def test_the_junk_class_stops_pushing_far_classes_away() -> None:
    logits = torch.tensor([[-0.1, -50.0]], requires_grad=True)
    summed_loss(LossConfig(kind="map", junk_distance=1.0), logits, torch.tensor([0])).backward()
    assert logits.grad is not None
    assert logits.grad[0, 1].abs() < 1e-9
    assert logits.grad[0, 0] < -0.2  # still drawn to its own class, by the junk class


def test_auxiliary_losses_are_weighted() -> None:
    output = WithAuxiliary(LOGITS, (LOGITS + 1, 2 * LOGITS))
    one, _, twice = (summed_loss(LossConfig(), x, LABELS) for x in (LOGITS, LOGITS + 1, 2 * LOGITS))
    got = objective(LossConfig(auxiliary_weight=0.3), output, LABELS)
    assert got.item() == pytest.approx((one + 0.3 * one + 0.3 * twice).item(), rel=1e-6)
    assert main_logits(output) is LOGITS
    assert objective(LossConfig(), LOGITS, LABELS) == one


def test_targets_may_be_shares_of_classes() -> None:
    hard = summed_loss(LossConfig(label_smoothing=0.1), LOGITS, LABELS)
    shares = nn.functional.one_hot(LABELS, 3).float()
    soft = summed_loss(LossConfig(label_smoothing=0.1), LOGITS, shares)
    assert soft.item() == pytest.approx(hard.item(), rel=1e-6)
