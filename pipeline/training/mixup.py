"""Mixup, cutmix and random erasing, on the device, after loading.

torchvision's transforms, which draw from torch's global random state: the loop seeds it by the
position, so that a seed gives the same mixtures on any number of workers.
"""

import torch
from torch import Tensor

from pipeline.config import augmentation


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
