"""Mixup, cutmix and random erasing, on the device, after loading.

torchvision's transforms, which draw from torch's global random state on the CPU. It is seeded for
each micro-batch by its position, so that a seed gives the same mixtures on any number of workers,
on any device, and however many micro-batches are computed at once.
"""

import torch
from torch import Tensor

from pipeline.config import augmentation
from pipeline.training.groups import EvenPart


def mix_groups(
    settings: augmentation.MixupConfig | None,
    num_classes: int,
    part: EvenPart,
    place: tuple[int, int, int],
) -> tuple[Tensor, Tensor]:
    """Return the images of `part` and their targets, each micro-batch mixed alone, seeded by place.

    As `mix_images`; `place` is seed, epoch and step.
    """
    if settings is None:
        return part.images, part.labels
    mixed = []
    for number, images, labels in zip(
        part.micro_batches,
        part.images.chunk(part.num_groups),
        part.labels.chunk(part.num_groups),
        strict=True,
    ):
        _seed_generator(*place, number)
        mixed.append(mix_images(settings, num_classes, images, labels))
    return torch.cat([each[0] for each in mixed]), torch.cat([each[1] for each in mixed])


def mix_images(
    settings: augmentation.MixupConfig | None, num_classes: int, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return images (n, c, h, w) and their targets, labels (n,) or shares of classes (n, c).

    Where both are set, each micro-batch takes mixup or cutmix with equal chances.
    """
    if settings is None:
        return images, labels
    # Imported late: it takes as long as torch, and most recipes mix nothing.
    from torchvision.transforms import v2

    kinds: list[v2.Transform] = []
    if settings.mixup_alpha:
        kinds.append(v2.MixUp(alpha=settings.mixup_alpha, num_classes=num_classes))
    if settings.cutmix_alpha:
        kinds.append(v2.CutMix(alpha=settings.cutmix_alpha, num_classes=num_classes))
    if settings.erasing_probability:
        erase = v2.RandomErasing(p=settings.erasing_probability)
        images = torch.stack([erase(image) for image in images])
    if not kinds:
        return images, labels
    return v2.RandomChoice(kinds)(images, labels)


def _seed_generator(seed: int, epoch: int, step: int, micro_batch: int) -> None:
    mixed = seed
    for part in (epoch, step, micro_batch):
        mixed = (mixed * 6364136223846793005 + part + 1442695040888963407) % 2**63
    # Not `torch.manual_seed`, which takes milliseconds where CUDA is there but not started.
    torch.default_generator.manual_seed(mixed)
