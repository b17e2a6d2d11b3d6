"""Changes brightness, contrast and saturation of images that are normalized already."""

import numpy as np
import torch
from torch import Tensor

from pipeline.config.recipe import InputConfig
from pipeline.data.loading.device_memory import to_device
from pipeline.data.loading.views import Views

# Of ITU-R BT.601, as fb.resnet.torch and Pillow have them. They sum to 1.
_GRAY = (0.299, 0.587, 0.114)


def jitter_colors(images: Tensor, views: Views, input: InputConfig) -> Tensor:
    """Change `images` (n, 3, h, w), lit and normalized, by the colour jitter of `views`.

    As fb.resnet.torch (`datasets/transforms.lua`): brightness β scales, saturation σ blends with
    each pixel's gray g, contrast α blends with the image's mean gray m, and nothing is clamped.
    The gray of a gray image is itself, and blending towards gray keeps every pixel's gray: the
    three commute, and in whatever order they come they are

        x → β (α (σ x + (1 − σ) g) + (1 − α) m).

    The lighting comes after them, so it is taken out first and put back.
    """
    if (views.color_jitter == 1).all():
        return images

    # All in one copy, (n, 3, 1, 1) each.
    mean, std, gray_weights = (
        np.broadcast_to(np.array(each, dtype=np.float32), views.lighting.shape)
        for each in (input.mean, input.std, _GRAY)
    )
    values = np.stack([mean - views.lighting, std, gray_weights, views.color_jitter])
    copied = to_device(torch.from_numpy(values), images.device)[..., None, None]
    unlit_mean, deviation, weights, factors = copied
    pixels = images * deviation + unlit_mean
    gray = (pixels * weights).sum(dim=1, keepdim=True)
    mean_gray = gray.mean(dim=(2, 3), keepdim=True)
    brightness, contrast, saturation = factors.split(1, dim=1)  # (n, 1, 1, 1) each
    pixels = torch.lerp(gray, pixels, saturation)
    pixels = brightness * torch.lerp(mean_gray, pixels, contrast)
    return (pixels - unlit_mean) / deviation
