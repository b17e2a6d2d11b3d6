"""Mixed images and their targets agree."""

import pytest
import torch

from pipeline.config.augmentation import MixupConfig
from pipeline.training.mixup import mix_images

# Four images, each of one value, so that the share of each in a mixture can be read off.
VALUES = torch.tensor([0.0, 1.0, 10.0, 100.0])
IMAGES = VALUES[:, None, None, None].expand(4, 3, 16, 16).contiguous()
LABELS = torch.arange(4)


def test_without_settings_nothing_is_mixed() -> None:
    images, targets = mix_images(None, 4, IMAGES, LABELS)
    assert images is IMAGES
    assert targets is LABELS


@pytest.mark.parametrize("settings", [MixupConfig(mixup_alpha=1.0), MixupConfig(cutmix_alpha=1.0)])
def test_targets_are_the_shares_of_the_pixels(settings: MixupConfig) -> None:
    torch.manual_seed(3)
    images, shares = mix_images(settings, 4, IMAGES, LABELS)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(4))
    torch.testing.assert_close(images.mean(dim=(1, 2, 3)), shares @ VALUES, rtol=1e-4, atol=1e-4)
    assert not torch.equal(images, IMAGES)


def test_mixup_blends_and_cutmix_pastes() -> None:
    torch.manual_seed(3)
    pasted, _ = mix_images(MixupConfig(cutmix_alpha=1.0), 4, IMAGES, LABELS)
    assert set(pasted.unique().tolist()) <= set(VALUES.tolist())
    blended, _ = mix_images(MixupConfig(mixup_alpha=1.0), 4, IMAGES, LABELS)
    assert all(len(image.unique()) == 1 for image in blended)


def test_a_seed_gives_the_same_mixture() -> None:
    settings = MixupConfig(mixup_alpha=0.2, cutmix_alpha=1.0, erasing_probability=0.5)
    first, second = [
        (torch.manual_seed(5), mix_images(settings, 4, IMAGES, LABELS))[1] for _ in range(2)
    ]
    assert all(map(torch.equal, first, second))
    torch.manual_seed(6)
    assert not torch.equal(mix_images(settings, 4, IMAGES, LABELS)[0], first[0])


def test_mixup_and_cutmix_are_equally_frequent() -> None:
    torch.manual_seed(0)
    settings = MixupConfig(mixup_alpha=1.0, cutmix_alpha=1.0)
    pasted = 0
    for _ in range(100):
        images, _ = mix_images(settings, 4, IMAGES, LABELS)
        pasted += set(images.unique().tolist()) <= set(VALUES.tolist())
    assert 30 < pasted < 70


def test_erasing_changes_neither_labels_nor_the_given_images() -> None:
    torch.manual_seed(0)
    ones = torch.ones(64, 3, 16, 16)
    labels = torch.arange(64)
    images, targets = mix_images(MixupConfig(erasing_probability=0.25), 64, ones, labels)
    assert targets is labels
    assert ones.all()
    erased = sum(not image.all() for image in images)
    assert 6 <= erased <= 27
