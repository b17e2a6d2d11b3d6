"""Colour jitter is that of fb.resnet.torch, written out here step by step, in any order."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from pipeline.config.augmentation import ColorJitter, RandomResizedCrop
from pipeline.config.cluster import LoadingConfig
from pipeline.config.protocol import CenterCrop
from pipeline.config.recipe import InputConfig
from pipeline.data.loading.color_jitter import jitter_colors
from pipeline.data.loading.lighting import FB_EIGENVECTORS, FB_STEPS, RGB_STDS
from pipeline.data.loading.loader import build_loader
from pipeline.data.loading.views import Views, training_views
from pipeline.data.store.store import Split

CPU = torch.device("cpu")
INPUT = InputConfig(size=32, mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4))
FB = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4)
JITTERED = RandomResizedCrop(color_jitter=FB, color_noise=0.1, color_components="fb")


def view(augmentation: RandomResizedCrop, count: int = 8, seed: int = 0, epoch: int = 0) -> Views:
    sizes = np.tile(np.array([[90, 120]]), (count, 1))
    return training_views(augmentation, CenterCrop(), 32, np.arange(count), sizes, seed, epoch)


# Each step on one image, float64 (3, h, w) in 0–1, after `datasets/transforms.lua`.


def grayscale(image: NDArray[Any]) -> NDArray[Any]:
    red, green, blue = image
    return np.stack([0.299 * red + 0.587 * green + 0.114 * blue] * 3)


def blend(first: NDArray[Any], second: NDArray[Any], alpha: float) -> NDArray[Any]:
    return first * alpha + (1 - alpha) * second


def brighten(image: NDArray[Any], alpha: float) -> NDArray[Any]:
    return blend(image, np.zeros_like(image), alpha)


def contrast(image: NDArray[Any], alpha: float) -> NDArray[Any]:
    return blend(image, np.full_like(image, grayscale(image)[0].mean()), alpha)


def saturate(image: NDArray[Any], alpha: float) -> NDArray[Any]:
    return blend(image, grayscale(image), alpha)


STEPS = (brighten, contrast, saturate)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_jitter_is_fbs_in_every_order(order: tuple[int, ...], layout: torch.memory_format) -> None:
    views = view(JITTERED)
    images = np.random.default_rng(0).random((8, 3, 32, 32))
    mean, std = (np.array(v).reshape(3, 1, 1) for v in (INPUT.mean, INPUT.std))
    shifts = views.lighting[:, :, None, None]
    normalized = torch.from_numpy((255 * images + shifts - mean) / std).float()
    ours = jitter_colors(normalized.contiguous(memory_format=layout), views, INPUT)
    assert ours.is_contiguous(memory_format=layout)
    for i, image in enumerate(images):
        expected = image
        for step in order:
            expected = STEPS[step](expected, float(views.color_jitter[i, step]))
        lit = expected + shifts[i] / 255
        np.testing.assert_allclose(ours[i], (255 * lit - mean) / std, atol=2e-5)


def test_pillow_has_the_same_three_steps() -> None:
    """Pillow clamps, and rounds to whole grey levels: in a dull image up to 1.5 of them."""
    pixels = np.random.default_rng(1).integers(80, 170, (32, 32, 3), np.uint8)
    views = replace(view(JITTERED, 1), lighting=np.zeros((1, 3), dtype=np.float32))
    grey_levels = InputConfig(size=32, mean=(0, 0, 0), std=(1, 1, 1))
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    for column, enhance in enumerate(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    ):
        factors = np.ones((1, 3), dtype=np.float32)
        factors[0, column] = 0.7
        ours = jitter_colors(batch, replace(views, color_jitter=factors), grey_levels)
        theirs = np.asarray(enhance(Image.fromarray(pixels)).enhance(0.7), dtype=np.float32)
        assert np.abs(ours[0].permute(1, 2, 0).numpy() - theirs).max() < 1.5


def test_without_jitter_nothing_is_computed() -> None:
    images = torch.rand(8, 3, 32, 32)
    assert jitter_colors(images, view(RandomResizedCrop(color_noise=0.1)), INPUT) is images


def test_all_other_numbers_stay_when_jitter_comes() -> None:
    plain = JITTERED.model_copy(update={"color_jitter": None})
    with_jitter, without = view(JITTERED, 50), view(plain, 50)
    for name, values in vars(without).items():
        if name != "color_jitter":
            np.testing.assert_array_equal(values, getattr(with_jitter, name), err_msg=name)
    assert (without.color_jitter == 1).all()


def test_factors_are_uniform_independent_and_belong_to_image_and_epoch() -> None:
    strengths = np.array([0.5, 0.4, 0.2])
    jitter = ColorJitter(brightness=0.5, contrast=0.4, saturation=0.2)
    augmentation = RandomResizedCrop(color_jitter=jitter)
    views = view(augmentation, 4000)
    units = (views.color_jitter - 1) / strengths
    assert (np.abs(units) <= 1).all()
    np.testing.assert_allclose(units.mean(axis=0), 0, atol=5 / np.sqrt(3 * 4000))
    np.testing.assert_allclose(units.var(axis=0), 1 / 3, atol=0.03)
    columns = np.concatenate([units, views.boxes, views.flips[:, None]], axis=1)
    others = np.corrcoef(columns.T)[:3] - np.eye(3, columns.shape[1])
    assert np.abs(others).max() < 5 / np.sqrt(4000)
    np.testing.assert_array_equal(view(augmentation, 9).color_jitter, views.color_jitter[:9])
    for other in (view(augmentation, 9, seed=1), view(augmentation, 9, epoch=1)):
        assert (other.color_jitter != views.color_jitter[:9]).all()


def test_fbs_noise_steps_along_its_components_by_its_variances() -> None:
    """0.1 · 0.2175 · 255 = 5.5 grey levels on the main axis; AlexNet's code has 12.2."""
    shifts = view(JITTERED, 20_000).lighting / 255
    np.testing.assert_allclose(FB_EIGENVECTORS.T @ FB_EIGENVECTORS, np.eye(3), atol=2e-3)
    stds = (shifts @ FB_EIGENVECTORS).std(axis=0)
    np.testing.assert_allclose(stds, 0.1 * np.array([0.2175, 0.0188, 0.0045]), rtol=0.03)
    assert 0.1 * FB_STEPS.max() == pytest.approx(5.546, abs=1e-3)
    assert 0.1 * RGB_STDS.max() == pytest.approx(12.178, abs=1e-3)


def test_both_backends_show_the_jitter(photos: Split) -> None:
    """As the jitter of what they show without it; measured apart: 0.14 grey levels."""
    grey_levels = InputConfig(size=64, mean=(0, 0, 0), std=(1, 1, 1))
    images = np.arange(len(photos))
    views = training_views(JITTERED, CenterCrop(), 64, images, photos.sizes, 0, 0)
    plain = replace(views, color_jitter=np.ones_like(views.color_jitter))
    shown = {}
    for backend in ("dali", "reference"):
        for name, plan in (("plain", plain), ("jittered", views)):
            loader = build_loader(
                photos,
                [plan],
                grey_levels,
                LoadingConfig.model_validate({"backend": backend}),
                CPU,
                max_batch_size=len(photos),
                fill=None,
                channels_last=True,
            )
            shown[backend, name] = next(loader).images
            loader.close()
        expected = jitter_colors(shown[backend, "plain"], views, grey_levels)
        torch.testing.assert_close(shown[backend, "jittered"], expected)
    apart = shown["dali", "jittered"] - shown["reference", "jittered"]
    assert apart.abs().mean() < 0.5
    assert (shown["dali", "jittered"] - shown["dali", "plain"]).abs().mean() > 5
