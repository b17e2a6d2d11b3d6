"""Stored predictions: errors, calibration, significance of differences, ensembles."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from stored_predictions import predictions_of

from pipeline.evaluation.ensemble import ensemble
from pipeline.evaluation.error_analysis import calibration, class_errors, confusions
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.significance import compare_paired
from pipeline.evaluation.topk import topk_hits
from pipeline.runtime.errors import UserError


def named(predictions: Predictions, number: int, **more: object) -> Predictions:
    """Return the predictions with another run and other weights."""
    own = {"run": f"run-{number}", "weights_digest": f"{number:064}", **more}
    return replace(predictions, metadata=predictions.metadata.model_copy(update=own))


def scores(seed: int, num_images: int = 300, num_classes: int = 8) -> torch.Tensor:
    return 2 * torch.randn(num_images, num_classes, generator=torch.Generator().manual_seed(seed))


LABELS = torch.arange(300) % 8


def test_errors_of_classes_add_up_to_all_errors() -> None:
    some = predictions_of(scores(0), LABELS)
    found = class_errors(some)
    assert sum(one.images for one in found) == len(some)
    assert sum(one.top1_errors for one in found) == len(some) - some.hits(1)
    assert sum(one.top5_errors for one in found) == len(some) - some.hits(5)
    shares = [one.top1_errors / one.images for one in found]
    assert shares == sorted(shares, reverse=True)


def test_confusions_are_counted_by_pair() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    guessed = torch.tensor([1, 1, 0, 0, 1, 2])
    found = confusions(predictions_of(torch.eye(3)[guessed], labels), 5)
    assert [(one.label, one.guess, one.images, one.label_images) for one in found] == [
        (0, 1, 2, 3), (1, 0, 1, 2),
    ]  # fmt: skip


def test_calibration_of_known_probabilities() -> None:
    # Ten images at 0.8, of which six are right; ten at 0.25 of which none is.
    probabilities = torch.tensor([[0.8, 0.2, 0, 0, 0]] * 10 + [[0.25, 0.2, 0.2, 0.2, 0.15]] * 10)
    labels = torch.tensor([0] * 6 + [1] * 14)
    found = calibration(predictions_of(probabilities.log(), labels), num_bins=10)
    assert [one.images for one in found.bins] == [10, 10]
    assert [one.accuracy for one in found.bins] == [0.0, 0.6]
    assert found.expected_error == pytest.approx((10 * 0.2 + 10 * 0.25) / 20, abs=1e-3)


def test_mcnemar_and_bootstrap_of_two_networks() -> None:
    good, bad = torch.eye(8)[LABELS], torch.eye(8)[(LABELS + 1) % 8]
    first, second = good.clone(), good.clone()
    first[:10], second[10:45] = bad[:10], bad[10:45]
    found = compare_paired(predictions_of(first, LABELS), predictions_of(second, LABELS), k=1)
    assert (found.only_first, found.only_second) == (35, 10)
    assert found.p_value == pytest.approx(binomtest(10, 45).pvalue)
    assert found.difference == pytest.approx(100 * 25 / 300)
    # Of the paired difference's deviation, in points.
    deviation = 100 * np.sqrt(45 / 300 - (25 / 300) ** 2) / np.sqrt(300)
    assert found.interval.low == pytest.approx(found.difference - 1.96 * deviation, abs=0.3)
    assert found.interval.high == pytest.approx(found.difference + 1.96 * deviation, abs=0.3)
    same = compare_paired(predictions_of(first, LABELS), predictions_of(first, LABELS), k=1)
    assert (same.p_value, same.difference, same.interval.low) == (1.0, 0.0, 0.0)


def test_predictions_of_different_images_are_not_compared() -> None:
    some = predictions_of(scores(0), LABELS)
    other_data = replace(some, metadata=some.metadata.model_copy(update={"data_digest": "e" * 64}))
    other_order = replace(some, keys=some.keys[::-1])
    for other in (other_data, other_order):
        with pytest.raises(UserError, match="evaluate both on the same"):
            compare_paired(some, other, k=1)
        with pytest.raises(UserError, match="evaluate both on the same"):
            ensemble([some, other])


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), count=st.integers(2, 4))
def test_an_ensemble_is_the_mean_of_probabilities(seed: int, count: int) -> None:
    each = [scores(100 * seed + number) for number in range(count)]
    joint = torch.stack([one.softmax(1) for one in each]).mean(0)
    found = ensemble(
        [named(predictions_of(one, LABELS), number) for number, one in enumerate(each)]
    )
    assert np.abs(found.probabilities.astype(np.float32) - joint.numpy()).max() < 1e-3
    hits = topk_hits(joint, LABELS).tolist()
    # Two classes as near as float16 rounds may change places.
    assert abs(found.hits(1) - hits[0]) <= 1
    assert abs(found.hits(5) - hits[1]) <= 1
    assert found.metadata.ensemble_size == count


def test_weights_of_an_ensemble_are_applied_and_named() -> None:
    first, second = (named(predictions_of(scores(seed), LABELS), seed) for seed in (1, 2))
    found = ensemble([first, second], [3, 1])
    expected = 0.75 * scores(1).softmax(1) + 0.25 * scores(2).softmax(1)
    assert np.abs(found.probabilities.astype(np.float32) - expected.numpy()).max() < 1e-3
    assert found.metadata.protocol == "whole-weighted"
    assert found.metadata.members[0].startswith("0.75 × ")
    assert found.metadata.run != ensemble([first, second], [1, 3]).metadata.run
    for wrong in ([1.0], [1.0, -1.0], [0.0, 0.0], [1.0, np.inf], [1.0, np.nan]):
        with pytest.raises(UserError, match="--weights"):
            ensemble([first, second], wrong)


def test_an_ensemble_of_two_networks_has_the_published_name() -> None:
    first = predictions_of(scores(1), LABELS)
    second, third = named(first, 2, network="vgg19"), named(first, 3, network="vgg16")
    assert ensemble([second, third]).metadata.network == "vgg16 and vgg19"
    assert ensemble([second, named(second, 4)]).metadata.network == "vgg19"


@pytest.mark.parametrize(
    ("training_digests", "expected"),
    [
        (("d", "d"), (False, "val")),
        (("d", "e"), (True, "ilsvrc2012.val")),
        (("d", ""), (False, "val")),
        (("", ""), (False, "ilsvrc2012.val")),
    ],
)
def test_an_ensemble_is_foreign_if_a_member_is(
    training_digests: tuple[str, str], expected: tuple[bool, str]
) -> None:
    some = predictions_of(scores(1), LABELS)
    members = [
        named(some, number, training_digest=64 * digit)
        for number, digit in enumerate(training_digests)
    ]
    metadata = ensemble(members).metadata
    assert (metadata.is_foreign, metadata.qualified_split) == expected


def test_one_network_by_two_protocols_counts_once_and_a_repeated_member_is_refused() -> None:
    first = named(predictions_of(scores(1), LABELS), 1)
    by_another = named(first, 1, protocol="flip-256-224")
    found = ensemble([first, by_another, named(first, 2)]).metadata
    assert (found.ensemble_size, found.protocol) == (2, "flip-256-224+whole")
    with pytest.raises(UserError, match="run-1 and run-1 are the same network"):
        ensemble([first, named(first, 2), first])


def test_scores_of_nan_hit_none_of_three_classes() -> None:
    some = predictions_of(torch.full((6, 3), torch.nan), torch.arange(6) % 3)
    assert (some.hits(1), some.hits(5)) == (0, 0)
    assert [one.top5_errors for one in class_errors(some)] == [2, 2, 2]
    right = predictions_of(torch.eye(3)[torch.arange(6) % 3], torch.arange(6) % 3)
    found = compare_paired(some, right, k=5)
    assert (found.only_first, found.only_second) == (0, 6)
