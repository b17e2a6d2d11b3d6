"""Runs that differ by their seed alone are one group, with mean and sample deviation."""

from dataclasses import replace

import pytest

from pipeline.evaluation.metrics import Counts
from pipeline.results.measured import Measured
from pipeline.results.published import ResultKey
from pipeline.results.seed_groups import group_by_seed

KEY = ResultKey("lenet5_modern", "digits", "val", "whole")
ERRORS = (24, 22, 11)  # of 899, by seeds 2, 0 and 1


def result(seed: int, errors: int, **settings: str) -> Measured:
    counts = Counts(899 - errors, 899, 899)
    return Measured(KEY, counts, run=f"seed-{seed}", settings={"seed": str(seed), **settings})


SEEDS = [result(seed, errors) for seed, errors in zip((2, 0, 1), ERRORS, strict=True)]


def test_seeds_are_one_group_in_their_order_with_the_sample_deviation() -> None:
    (group,) = group_by_seed(SEEDS)
    assert [one.run for one in group.results] == ["seed-0", "seed-1", "seed-2"]
    assert group.words == "3 seeds"
    top1, top5 = group.spreads
    # 2.6696, 2.4472 and 1.2236 %: mean 2.1135, squares from it 0.3093 + 0.1114 + 0.7919 = 1.2126;
    # halved, not divided by three, 0.6063.
    assert (top1.name, top1.value) == ("top-1", pytest.approx(2.1135, abs=1e-4))
    assert top1.deviation == pytest.approx(0.6063**0.5, abs=1e-4)
    assert str(top1) == "2.11 ± 0.78"
    assert str(top5) == "0.00 ± 0.00"
    assert group.top1_error == top1.value


def test_any_other_difference_parts_them() -> None:
    slow = [result(seed, 90, **{"optimizer.learning_rate": "0.01"}) for seed in (0, 1)]
    other_images = replace(SEEDS[0], counts=Counts(90, 100, 100))
    other_protocol = replace(SEEDS[0], key=replace(KEY, protocol="ten-crop-40-32"))
    ensembles = [replace(SEEDS[0], settings={}) for _ in range(2)]
    groups = group_by_seed([*SEEDS, *slow, other_images, other_protocol, *ensembles])
    assert [len(group.results) for group in groups] == [3, 2, 1, 1, 1, 1]
    assert groups[2].spreads == ()
    assert groups[2].top1_error == 10


def test_a_training_that_is_not_over_is_listed_but_not_in_the_mean() -> None:
    unfinished = replace(result(3, 800), complete=False)
    (group,) = group_by_seed([*SEEDS, unfinished])
    assert len(group.results) == 4
    assert group.words == "3 seeds"
    assert str(group.spreads[0]) == "2.11 ± 0.78"
    (group,) = group_by_seed([SEEDS[0], unfinished])
    assert group.spreads == ()


def test_the_same_seed_again_is_no_other_seed() -> None:
    (group,) = group_by_seed([SEEDS[0], SEEDS[0]])
    assert group.spreads == ()
    (group,) = group_by_seed([SEEDS[0], SEEDS[0], SEEDS[1]])
    assert group.words == "3 runs of 2 seeds"


def test_of_five_classes_or_fewer_there_is_no_spread_of_top5() -> None:
    (group,) = group_by_seed([replace(one, num_classes=3) for one in SEEDS])
    assert [spread.name for spread in group.spreads] == ["top-1"]
