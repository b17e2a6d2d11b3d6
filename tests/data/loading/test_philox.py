"""The generator gives the published numbers, and its numbers look random."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.loading.philox import philox4x32, sort_keys, uniforms

# Random123, tests/kat_vectors: counter, key, expected output of `philox4x32 10`.
KNOWN_ANSWERS = [
    ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]

words = st.integers(0, 2**32 - 1)


def from_hex(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def test_known_answers() -> None:
    for counter, key, expected in KNOWN_ANSWERS:
        first, second = from_hex(key)
        output = philox4x32(np.array([from_hex(counter)] * 3, np.uint64), (first, second))
        assert output.tolist() == [from_hex(expected)] * 3


@settings(max_examples=30)
@given(seed=words, epoch=words, count=st.integers(1, 9), picks=st.lists(st.integers(0, 2**40)))
def test_numbers_belong_to_the_image_and_the_column(
    seed: int, epoch: int, count: int, picks: list[int]
) -> None:
    images = np.array(picks, dtype=np.int64)
    numbers = uniforms(seed, epoch, images, count)
    assert numbers.shape == (len(picks), count)
    assert numbers.dtype == np.float64
    np.testing.assert_array_equal(uniforms(seed, epoch, images[::-1], count)[::-1], numbers)
    np.testing.assert_array_equal(uniforms(seed, epoch, images, count + 3)[:, :count], numbers)


@pytest.mark.parametrize("place", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 2**32)])
def test_every_part_of_the_place_counts(place: tuple[int, int, int]) -> None:
    seed, epoch, image = place
    here = uniforms(0, 0, np.array([0]), 8)
    assert not np.isin(uniforms(seed, epoch, np.array([image]), 8), here).any()


def test_numbers_are_uniform_and_independent() -> None:
    numbers = uniforms(7, 3, np.arange(20_000), 6)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    # Five standard errors of a mean, of a share and of a correlation of 20,000 numbers.
    np.testing.assert_allclose(numbers.mean(axis=0), 0.5, atol=5 / np.sqrt(12 * 20_000))
    for column in numbers.T:
        counts = np.bincount((column * 10).astype(int), minlength=10)
        np.testing.assert_allclose(counts, 2000, atol=5 * np.sqrt(1800))
    correlations = np.corrcoef(numbers.T) - np.eye(6)
    neighbours = np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]
    np.testing.assert_allclose(correlations, 0, atol=5 / np.sqrt(20_000))
    assert abs(neighbours) < 5 / np.sqrt(20_000)


@pytest.mark.parametrize("num_images", [0, 1, 2, 7, 2**15 - 1, 2**15, 2**15 + 3])
def test_sort_keys_are_distinct_and_start_alike(num_images: int) -> None:
    keys = sort_keys(5, 2, num_images)
    assert keys.dtype == np.uint64
    assert len(np.unique(keys)) == len(keys) == num_images
    np.testing.assert_array_equal(keys, sort_keys(5, 2, 2**15 + 10)[:num_images])


def test_views_and_order_draw_from_different_streams() -> None:
    high_words = (sort_keys(1, 1, 2000) >> np.uint64(32)) / 2**32
    assert not np.isin(high_words, uniforms(1, 1, np.arange(2000), 4)).any()
