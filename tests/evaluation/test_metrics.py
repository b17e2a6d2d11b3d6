import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch import Tensor

from pipeline.evaluation.metrics import Counts, Interval, wilson_interval
from pipeline.evaluation.topk import topk_hits


def guesses_hit(logits: Tensor, labels: Tensor, k: int) -> int:
    """Count hits as eval_flat.m does, from each image's list of k guesses, best first."""
    hits = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        guesses = sorted(range(len(row)), key=lambda c: (-row[c], c))[:k]
        hits += label in guesses
    return hits


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_hit_is_a_label_among_the_guesses(data: st.DataObject) -> None:
    num_images, num_classes = data.draw(st.integers(0, 12)), data.draw(st.integers(1, 9))
    # Few distinct values, so that ties are the rule.
    values = st.lists(st.integers(-2, 2), min_size=num_classes, max_size=num_classes)
    rows = data.draw(st.lists(values, min_size=num_images, max_size=num_images))
    logits = torch.tensor(rows, dtype=torch.float32).reshape(num_images, num_classes)
    labels = torch.tensor(
        data.draw(
            st.lists(st.integers(0, num_classes - 1), min_size=num_images, max_size=num_images)
        ),
        dtype=torch.int64,
    )
    hits = topk_hits(logits, labels)
    assert hits.dtype == torch.int64
    assert hits.tolist() == [guesses_hit(logits, labels, k) for k in (1, min(5, num_classes))]


def test_hits_agree_with_topk_without_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 1000, generator=generator)
    labels = torch.randint(1000, (500,), generator=generator)
    logits[torch.arange(500), labels] += 2
    hits = [(logits.topk(k).indices == labels[:, None]).any(1).sum().item() for k in (1, 5)]
    assert 0 < hits[0] < hits[1] < 500
    assert topk_hits(logits, labels).tolist() == hits
    assert topk_hits(logits.bfloat16(), labels)[1] > 0


def test_a_constant_network_is_at_chance() -> None:
    labels = torch.arange(1000)
    assert topk_hits(torch.zeros(1000, 1000), labels).tolist() == [1, 5]


def test_a_diverged_network_hits_nothing() -> None:
    labels = torch.arange(10)
    assert topk_hits(torch.full((10, 10), float("nan")), labels).tolist() == [0, 0]
    assert topk_hits(torch.full((1, 3), float("nan")), torch.tensor([1])).tolist() == [0, 0]
    logits = torch.zeros(1, 6)
    logits[0, 0] = float("nan")
    assert topk_hits(logits, torch.tensor([0])).tolist() == [0, 0]
    assert topk_hits(logits, torch.tensor([1])).tolist() == [0, 1]
    assert topk_hits(logits, torch.tensor([5])).tolist() == [0, 0]
    assert topk_hits(torch.tensor([[0.0, float("inf")]]), torch.tensor([1])).tolist() == [1, 1]


def test_fewer_than_five_classes_are_all_guessed() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert topk_hits(logits, torch.tensor([0, 2])).tolist() == [1, 2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_ties_break_the_same_on_a_gpu() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(3, (200, 20), generator=generator).float()
    labels = torch.randint(20, (200,), generator=generator)
    assert topk_hits(logits.cuda(), labels.cuda()).cpu().equal(topk_hits(logits, labels))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8, 200])
def test_hits_of_parts_add_up_to_those_of_the_whole(world_size: int) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(103, 10, generator=generator)
    labels = torch.randint(10, (103,), generator=generator)
    shares = [slice(rank, None, world_size) for rank in range(world_size)]
    parts = [topk_hits(logits[share], labels[share]) for share in shares]
    assert torch.equal(torch.stack(parts).sum(0), topk_hits(logits, labels))


def test_errors_are_percent_of_the_images() -> None:
    counts = Counts(top1_hits=28_600, top5_hits=40_100, images=50_000)
    assert (counts.top1_error, counts.top5_error) == (42.8, 19.8)


@pytest.mark.parametrize("wrong", [(-1, 0, 1), (2, 1, 3), (0, 4, 3)])
def test_impossible_counts_are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="hits"):
        Counts(*wrong)


def test_no_images_have_no_error() -> None:
    with pytest.raises(ZeroDivisionError):
        _ = Counts(0, 0, 0).top1_error


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize(
    ("errors", "images"), [(0, 10), (1, 10), (5, 10), (10, 10), (9910, 50_000)]
)
def test_wilson_agrees_with_scipy(errors: int, images: int, confidence: float) -> None:
    expected = binomtest(errors, images).proportion_ci(confidence, method="wilson")
    interval = wilson_interval(errors, images, confidence)
    assert interval.low == pytest.approx(100 * expected.low, abs=1e-9)
    assert interval.high == pytest.approx(100 * expected.high, abs=1e-9)
    assert 100 * errors / images in interval


def test_wilson_known_values() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), Table I: 81 of 263, 15 of 148.
    for errors, images, low, high in ((81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05)):
        interval = wilson_interval(errors, images)
        assert (round(interval.low, 2), round(interval.high, 2)) == (low, high)


@pytest.mark.parametrize(("errors", "images"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(errors: int, images: int) -> None:
    with pytest.raises(ValueError, match="errors of"):
        wilson_interval(errors, images)


def test_an_interval_includes_its_bounds() -> None:
    assert [error in Interval(1.0, 2.0) for error in (0.99, 1.0, 1.5, 2.0, 2.01)] == [
        False,
        True,
        True,
        True,
        False,
    ]
