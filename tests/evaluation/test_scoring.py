"""Kept predictions by class, by pair, by confidence; two of them; several as one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import made_of
from scipy.stats import binomtest

from pipeline.errors import UserError
from pipeline.evaluation.ensemble import ensemble
from pipeline.evaluation.hits import topk_hits
from pipeline.evaluation.paired import compare_paired
from pipeline.evaluation.scoring import calibration, class_errors, confusions


def scores(seed: int, num_images: int = 300, num_classes: int = 8) -> torch.Tensor:
    return 2 * torch.randn(num_images, num_classes, generator=torch.Generator().manual_seed(seed))


LABELS = torch.arange(300) % 8


def test_classes_add_up_to_the_whole() -> None:
    some = made_of(scores(0), LABELS)
    found = class_errors(some)
    assert sum(one.images for one in found) == len(some)
    assert sum(one.top1_errors for one in found) == len(some) - some.hits(1)
    assert sum(one.top5_errors for one in found) == len(some) - some.hits(5)
    shares = [one.top1_errors / one.images for one in found]
    assert shares == sorted(shares, reverse=True)


def test_confused_pairs_are_counted_once_each() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    guessed = torch.tensor([1, 1, 0, 0, 1, 2])
    found = confusions(made_of(torch.eye(3)[guessed], labels), 5)
    assert [(one.label, one.guess, one.images, one.label_images) for one in found] == [
        (0, 1, 2, 3), (1, 0, 1, 2),
    ]  # fmt: skip


def test_calibration_of_what_is_known() -> None:
    # Ten images at 0.8, of which six are right; ten at 0.25 of which none is.
    probabilities = torch.tensor([[0.8, 0.2, 0, 0, 0]] * 10 + [[0.25, 0.2, 0.2, 0.2, 0.15]] * 10)
    labels = torch.tensor([0] * 6 + [1] * 14)
    found = calibration(made_of(probabilities.log(), labels), num_bins=10)
    assert [one.images for one in found.bins] == [10, 10]
    assert [one.accuracy for one in found.bins] == [0.0, 0.6]
    assert found.expected_error == pytest.approx((10 * 0.2 + 10 * 0.25) / 20, abs=1e-3)


def test_mcnemar_and_the_bootstrap_of_two_networks() -> None:
    good, bad = torch.eye(8)[LABELS], torch.eye(8)[(LABELS + 1) % 8]
    first, second = good.clone(), good.clone()
    first[:10], second[10:45] = bad[:10], bad[10:45]
    found = compare_paired(made_of(first, LABELS), made_of(second, LABELS), k=1)
    assert (found.only_first, found.only_second) == (35, 10)
    assert found.p_value == pytest.approx(binomtest(10, 45).pvalue)
    assert found.difference == pytest.approx(100 * 25 / 300)
    # Of the paired difference's deviation, in points.
    deviation = 100 * np.sqrt(45 / 300 - (25 / 300) ** 2) / np.sqrt(300)
    assert found.interval.low == pytest.approx(found.difference - 1.96 * deviation, abs=0.3)
    assert found.interval.high == pytest.approx(found.difference + 1.96 * deviation, abs=0.3)
    same = compare_paired(made_of(first, LABELS), made_of(first, LABELS), k=1)
    assert (same.p_value, same.difference, same.interval.low) == (1.0, 0.0, 0.0)


def test_other_images_are_not_compared() -> None:
    some = made_of(scores(0), LABELS)
    other_data = replace(some, about=some.about.model_copy(update={"data_digest": "e" * 64}))
    other_order = replace(some, keys=some.keys[::-1])
    for other in (other_data, other_order):
        with pytest.raises(UserError, match="evaluate both on the same"):
            compare_paired(some, other, k=1)
        with pytest.raises(UserError, match="evaluate both on the same"):
            ensemble([some, other])


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), count=st.integers(2, 4))
def test_an_ensemble_is_the_joint_forward(seed: int, count: int) -> None:
    each = [scores(100 * seed + number) for number in range(count)]
    joint = torch.stack([one.softmax(1) for one in each]).mean(0)
    found = ensemble([made_of(one, LABELS) for one in each])
    assert np.abs(found.probabilities.astype(np.float32) - joint.numpy()).max() < 1e-3
    hits = topk_hits(joint, LABELS).tolist()
    # Two classes as near as float16 rounds may change places.
    assert abs(found.hits(1) - hits[0]) <= 1
    assert abs(found.hits(5) - hits[1]) <= 1
    assert found.about.ensemble_size == count


def test_weights_count_and_are_named() -> None:
    first, second = made_of(scores(1), LABELS), made_of(scores(2), LABELS)
    found = ensemble([first, second], [3, 1])
    expected = 0.75 * scores(1).softmax(1) + 0.25 * scores(2).softmax(1)
    assert np.abs(found.probabilities.astype(np.float32) - expected.numpy()).max() < 1e-3
    assert found.about.protocol == "whole-weighted"
    assert found.about.members[0].startswith("0.75 × ")
    assert found.about.run != ensemble([first, second], [1, 3]).about.run
    for wrong in ([1.0], [1.0, -1.0], [0.0, 0.0]):
        with pytest.raises(UserError, match="--weights"):
            ensemble([first, second], wrong)


def test_an_ensemble_of_two_kinds_has_the_published_name() -> None:
    first = made_of(scores(1), LABELS)
    second = replace(first, about=first.about.model_copy(update={"network": "vgg19"}))
    third = replace(first, about=first.about.model_copy(update={"network": "vgg16"}))
    assert ensemble([second, third]).about.network == "vgg16 and vgg19"
    assert ensemble([second, second]).about.network == "vgg19"
