"""Views are the papers' crops: places, sizes, areas and colours, checked without an image."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import ks_2samp
from torchvision import transforms

from pipeline.config.augmentation import (
    AlexNetCrop,
    Augmentation,
    ColorJitter,
    NoAugmentation,
    ProgressiveResizing,
    RandomAffine,
    RandomResizedCrop,
    ScaleJitter,
)
from pipeline.config.protocol import CenterCrop, WholeImage
from pipeline.data.loading.lighting import RGB_EIGENVECTORS, RGB_STDS
from pipeline.data.loading.views import (
    Views,
    evaluation_views,
    training_size,
    training_views,
)

SIZE = 224
CENTER = CenterCrop(resize=256)
SHIFT_SCALE = RandomAffine(max_shift=0.2, min_scale=0.7, max_scale=1.4, fill=9)
AUGMENTATIONS: list[Augmentation] = [
    NoAugmentation(),
    SHIFT_SCALE,
    AlexNetCrop(),
    ScaleJitter(min_side=256, max_side=512),
    RandomResizedCrop(color_noise=0.1),
]

sides = st.integers(1, 3000)
image_sizes = st.lists(st.tuples(sides, sides), min_size=1, max_size=20)
every_augmentation = pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=lambda a: a.kind)


def many(height: int, width: int, count: int = 4000) -> NDArray[np.int32]:
    return np.tile(np.array([[height, width]], dtype=np.int32), (count, 1))


def view(augmentation: Augmentation, sizes: Any, seed: int = 0, epoch: int = 0) -> Views:
    sizes = np.asarray(sizes, dtype=np.int32)
    return training_views(augmentation, CENTER, SIZE, np.arange(len(sizes)), sizes, seed, epoch)


def rescaled_size(height: int, width: int, shorter_side: int) -> tuple[int, int]:
    """As torchvision's `_compute_resized_output_size`."""
    if height <= width:
        return shorter_side, int(shorter_side * width / height)
    return int(shorter_side * height / width), shorter_side


@settings(max_examples=50)
@given(image_sizes)
def test_center_crop_rounds_as_torchvision(sizes: list[tuple[int, int]]) -> None:
    views = evaluation_views(CENTER, SIZE, np.arange(len(sizes)), np.array(sizes))
    for (height, width), box in zip(sizes, views.boxes, strict=True):
        new_height, new_width = rescaled_size(height, width, 256)
        top = int(round((new_height - SIZE) / 2.0))  # noqa: RUF046  as torchvision has it
        left = int(round((new_width - SIZE) / 2.0))  # noqa: RUF046
        y_scale, x_scale = height / new_height, width / new_width
        expected = [top * y_scale, left * x_scale, SIZE * y_scale, SIZE * x_scale]
        np.testing.assert_allclose(box, expected, rtol=1e-12)


def test_whole_image_is_the_whole_image() -> None:
    views = evaluation_views(WholeImage(), SIZE, np.arange(2), np.array([[8, 8], [375, 500]]))
    assert views.boxes.tolist() == views.support.tolist() == [[0, 0, 8, 8], [0, 0, 375, 500]]


def test_no_augmentation_is_the_evaluation_view() -> None:
    sizes = np.array([[375, 500], [500, 333]])
    expected = evaluation_views(CENTER, SIZE, np.arange(2), sizes)
    assert_same(view(NoAugmentation(), sizes), expected)


def assert_same(first: Views, second: Views) -> None:
    for name, values in vars(first).items():
        np.testing.assert_array_equal(values, getattr(second, name), err_msg=name, strict=True)


@dataclass(frozen=True)
class Drawn:
    """The boxes, flips, lighting and colour jitter of three images."""

    boxes: list[list[float]]
    flips: list[bool] = field(default_factory=lambda: [False] * 3)
    lighting: list[list[float]] = field(default_factory=lambda: [[0.0] * 3] * 3)
    color_jitter: list[list[float]] = field(default_factory=lambda: [[1.0] * 3] * 3)


FLIPS = [False, False, True]
RGB_LIGHTING = [[0.318540275, 1.947281, 0.902061164], [6.97282505, 2.86539221, -1.98183918],
                [10.157299, 4.38687181, 6.81898975]]  # fmt: skip
OF_SEED_3: list[tuple[Augmentation, Drawn]] = [
    (NoAugmentation(), Drawn(
        [[23.4375, 85.0439883, 328.125, 328.445748], [104.166667, 20.8125, 291.666667, 291.375],
         [2.5, 282.5, 35, 35]])),
    (SHIFT_SCALE, Drawn(
        [[-14.3850006, 13.6144976, 333.613838, 444.818451],
         [25.3394184, 49.3784469, 543.166239, 361.748715],
         [3.78037775, 17.4797101, 33.9586517, 509.379775]])),
    (AlexNetCrop(), Drawn(
        [[11.71875, 82.111437, 328.125, 328.445748], [114.583333, 41.625, 291.666667, 291.375],
         [2.8125, 281.875, 35, 35]],
        FLIPS, RGB_LIGHTING)),
    (ScaleJitter(min_side=256, max_side=512), Drawn(
        [[45.620438, 126.824818, 204.379562, 204.379562],
         [204.365079, 109.017857, 222.222222, 222],
         [10.487239, 222.459397, 20.7888631, 20.7888631]],
        FLIPS, RGB_LIGHTING)),
    (RandomResizedCrop(
        color_noise=0.1, color_components="fb",
        color_jitter=ColorJitter(brightness=0.4, contrast=0.5, saturation=0.3)), Drawn(
        [[14, 55, 321, 372], [199, 64, 230, 268], [0, 273, 40, 53]],
        FLIPS,
        [[1.78110135, 1.80959237, 1.76481164], [-0.272293597, 0.387172937, 0.910875618],
         [-5.66385603, -5.40984821, -5.35094643]],
        [[1.3820473, 0.549772382, 1.10287428], [1.09080791, 1.3911134, 1.14381194],
         [1.25974214, 1.08698893, 1.13088012]])),
]  # fmt: skip


@pytest.mark.parametrize(("augmentation", "drawn"), OF_SEED_3, ids=lambda v: getattr(v, "kind", ""))
def test_the_views_of_a_seed_never_change(augmentation: Augmentation, drawn: Drawn) -> None:
    """Pinned: with other views here, old runs could not be resumed or repeated."""
    images, sizes = np.array([0, 7, 2**33 + 1]), np.array([[375, 500], [500, 333], [40, 600]])
    views = training_views(augmentation, CENTER, SIZE, images, sizes, seed=3, epoch=3)
    np.testing.assert_allclose(views.boxes, drawn.boxes, rtol=1e-8)
    assert views.flips.tolist() == drawn.flips
    np.testing.assert_allclose(views.lighting, drawn.lighting, rtol=1e-6)
    np.testing.assert_allclose(views.color_jitter, drawn.color_jitter, rtol=1e-6)


@every_augmentation
@settings(max_examples=20)
@given(sizes=image_sizes, seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 300))
def test_a_view_belongs_to_its_image_and_epoch(
    augmentation: Augmentation, sizes: list[tuple[int, int]], seed: int, epoch: int
) -> None:
    """The same image has the same view in any batch, so on any worker and after any resume."""
    together = view(augmentation, sizes, seed, epoch)
    for i, size in enumerate(sizes):
        alone = training_views(
            augmentation, CENTER, SIZE, np.array([i]), np.array([size]), seed, epoch
        )
        fields = vars(together).items()
        one = {name: v[i : i + 1] if isinstance(v, np.ndarray) else v for name, v in fields}
        assert_same(Views(**one), alone)


@every_augmentation
@settings(max_examples=30)
@given(sizes=image_sizes)
def test_boxes_and_their_support_lie_in_the_image(
    augmentation: Augmentation, sizes: list[tuple[int, int]]
) -> None:
    views = view(augmentation, sizes)
    starts, ends = views.boxes[:, :2], views.boxes[:, :2] + views.boxes[:, 2:]
    low, high = views.support[:, :2], views.support[:, :2] + views.support[:, 2:]
    assert (views.boxes[:, 2:] > 0).all()
    assert (low <= starts).all()
    assert (high >= ends - 1e-9).all()
    if augmentation.kind == "area":
        np.testing.assert_array_equal(views.support, views.boxes)
    if augmentation.appearance.fill is None:
        assert (low >= 0).all()
        assert (high <= np.array(sizes)).all()


@every_augmentation
def test_epochs_and_seeds_differ(augmentation: Augmentation) -> None:
    boxes = [
        view(augmentation, many(375, 500, 50), s, e).boxes for s, e in ((0, 0), (0, 1), (1, 0))
    ]
    differ = augmentation.kind != "none"
    assert (boxes[0] != boxes[1]).any(axis=1).mean() >= 0.9 * differ
    assert (boxes[0] != boxes[2]).any(axis=1).mean() >= 0.9 * differ
    if not differ:
        np.testing.assert_array_equal(boxes[0], boxes[1])


def test_alexnet_crops_at_every_offset_of_the_central_square() -> None:
    height, width = 375, 500
    new_height, new_width = rescaled_size(height, width, 256)
    boxes = view(AlexNetCrop(), many(height, width)).boxes
    pixel = np.array([height / new_height, width / new_width])
    offsets = boxes[:, :2] / pixel - [0, round((new_width - 256) / 2)]
    np.testing.assert_allclose(offsets, offsets.round(), atol=1e-9)
    np.testing.assert_allclose(boxes[:, 2:], np.tile(224 * pixel, (len(boxes), 1)))
    for column in offsets.round().astype(int).T:
        counts = np.bincount(column, minlength=33)
        assert len(counts) == 33
        assert abs(counts - 4000 / 33).max() < 5 * np.sqrt(4000 / 33)


def test_scale_jitter_draws_every_scale_and_keeps_whole_offsets() -> None:
    augmentation = ScaleJitter(min_side=256, max_side=288)
    boxes = view(augmentation, many(300, 400)).boxes
    shorter_sides = SIZE * 300 / boxes[:, 2]
    np.testing.assert_allclose(shorter_sides, shorter_sides.round(), atol=1e-9)
    counts = np.bincount(shorter_sides.round().astype(int) - 256, minlength=33)
    assert len(counts) == 33
    assert abs(counts - 4000 / 33).max() < 5 * np.sqrt(4000 / 33)


def test_scale_jitter_crops_at_every_offset() -> None:
    """At 256 there are 33 offsets down, and 118 across the 341 pixels of the longer side."""
    boxes = view(ScaleJitter(min_side=256, max_side=256), many(300, 400)).boxes
    offsets = boxes[:, :2] * [256 / 300, 341 / 400]
    np.testing.assert_allclose(offsets, offsets.round(), atol=1e-9)
    for column, num_offsets in zip(offsets.round().astype(int).T, (33, 118), strict=True):
        counts = np.bincount(column, minlength=num_offsets)
        assert len(counts) == num_offsets
        assert abs(counts - 4000 / num_offsets).max() < 5 * np.sqrt(4000 / num_offsets)


def test_scale_jitter_from_one_side_has_that_side() -> None:
    boxes = view(ScaleJitter(min_side=SIZE, max_side=SIZE), many(448, 448, 10)).boxes
    assert boxes.tolist() == [[0, 0, 448, 448]] * 10


@pytest.mark.parametrize("size", [(375, 500), (500, 375), (12, 16), (90, 300)])
def test_area_crops_are_distributed_as_torchvisions(size: tuple[int, int]) -> None:
    """Kolmogorov and Smirnov find no difference in place, size, area or aspect ratio.

    In (12, 16) an offset is a large step; (90, 300) often exhausts its tries, and falls back.
    """
    ours = view(RandomResizedCrop(), many(*size)).boxes
    torch.manual_seed(0)
    image = torch.empty(1, *size)
    theirs = np.array(
        [
            transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3])
            for _ in range(4000)
        ]
    )
    for first, second in zip(derived(ours), derived(theirs), strict=True):
        assert ks_2samp(first, second).pvalue > 1e-3


def derived(boxes: NDArray[Any]) -> list[NDArray[np.float64]]:
    y, x, height, width = boxes.T.astype(float)
    return [y, x, height, width, height * width, width / height]


@pytest.mark.parametrize(
    ("size", "box"), [((40, 600), (0, 273, 40, 53)), ((600, 40), (273, 0, 53, 40))]
)
def test_area_crop_falls_back_to_the_centre(
    size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    whole_area = RandomResizedCrop(min_area=1.0, max_area=1.0)
    torch.manual_seed(0)
    theirs = transforms.RandomResizedCrop.get_params(
        torch.empty(1, *size), [1.0, 1.0], [3 / 4, 4 / 3]
    )
    assert theirs == box
    assert view(whole_area, [size]).boxes.tolist() == [list(box)]


def test_shift_scale_draws_scales_and_shifts_from_its_ranges() -> None:
    height, width = 40, 60
    y, x, box_height, box_width = view(SHIFT_SCALE, many(height, width)).boxes.T
    np.testing.assert_allclose(box_height / height, box_width / width)
    scales = height / box_height
    assert 0.7 <= scales.min() < 0.71
    assert 1.39 < scales.max() <= 1.4
    for shifts in ((y + box_height / 2) / height - 0.5, (x + box_width / 2) / width - 0.5):
        assert -0.2 <= shifts.min() < -0.19
        assert 0.19 < shifts.max() <= 0.2
        assert abs(np.corrcoef(shifts, scales)[0, 1]) < 5 / np.sqrt(4000)


@every_augmentation
def test_half_the_views_are_flipped_whatever_their_crop(augmentation: Augmentation) -> None:
    views = view(augmentation, many(375, 500))
    if not getattr(augmentation, "flip", False):
        assert not views.flips.any()
        return
    assert abs(views.flips.mean() - 0.5) < 5 * 0.5 / np.sqrt(4000)
    for column in views.boxes.T:
        if column.std():
            assert abs(np.corrcoef(views.flips, column)[0, 1]) < 5 / np.sqrt(4000)
    assert not view(augmentation.model_copy(update={"flip": False}), many(375, 500)).flips.any()


def test_colour_noise_has_the_covariance_of_imagenet() -> None:
    np.testing.assert_allclose(RGB_EIGENVECTORS.T @ RGB_EIGENVECTORS, np.eye(3), atol=1e-6)
    shifts = view(AlexNetCrop(color_noise=0.1), many(375, 500, 40_000)).lighting
    assert shifts.dtype == np.float32
    components = shifts @ RGB_EIGENVECTORS / (0.1 * RGB_STDS)
    np.testing.assert_allclose(components.mean(axis=0), 0, atol=5 / np.sqrt(40_000))
    np.testing.assert_allclose(np.cov(components.T), np.eye(3), atol=5 * np.sqrt(2 / 40_000))
    # A normal distribution's kurtosis is 3; its estimate has a standard error of √(24/n).
    np.testing.assert_allclose((components**4).mean(axis=0), 3, atol=5 * np.sqrt(96 / 40_000))


@every_augmentation
def test_without_colour_noise_the_crops_are_the_same(augmentation: Augmentation) -> None:
    noisy = view(augmentation, many(375, 500, 20))
    if not hasattr(augmentation, "color_noise"):
        assert not noisy.lighting.any()
        return
    plain = view(augmentation.model_copy(update={"color_noise": 0.0}), many(375, 500, 20))
    assert not plain.lighting.any()
    np.testing.assert_array_equal(plain.boxes, noisy.boxes)
    np.testing.assert_array_equal(plain.flips, noisy.flips)


@every_augmentation
@given(sizes=image_sizes)
@settings(max_examples=20)
def test_a_smaller_image_shows_the_same_box(
    augmentation: Augmentation, sizes: list[tuple[int, int]]
) -> None:
    full = view(augmentation, sizes, 0, 0)
    images, shapes = np.arange(len(sizes)), np.array(sizes)
    small = training_views(augmentation, CENTER, SIZE, images, shapes, 0, 0, SIZE // 2)
    assert (full.shape, small.shape) == ((SIZE, SIZE), (SIZE // 2, SIZE // 2))
    np.testing.assert_array_equal(small.boxes, full.boxes)
    np.testing.assert_array_equal(small.flips, full.flips)
    # The filter is wider, and reads as far around the box or farther.
    assert (small.support[:, :2] <= full.support[:, :2]).all()
    assert (small.support[:, 2:] >= full.support[:, 2:]).all()


def test_training_images_grow_evenly_to_the_input_size() -> None:
    resizing = ProgressiveResizing(start_size=128, full_size_from=60)
    sizes = [training_size(224, resizing, epoch) for epoch in range(90)]
    assert sizes == sorted(sizes)
    assert sorted(set(sizes)) == [128, 160, 192, 224]
    assert (sizes[0], sizes[59], sizes[60]) == (128, 192, 224)
    assert training_size(224, None, epoch=0) == 224
