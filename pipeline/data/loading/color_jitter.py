"""Changes brightness, contrast and saturation of images that are normalized already."""

import torch
from torch import Tensor

from pipeline.config.recipe import InputConfig
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

    def per_image(values: Tensor) -> Tensor:  # (n, 3) → (n, 3, 1, 1)
        return values.to(images.device)[..., None, None]

    mean, std = (torch.tensor(values)[None] for values in (input.mean, input.std))
    unlit_mean = mean - torch.from_numpy(views.lighting)
    pixels = images * per_image(std) + per_image(unlit_mean)
    gray = (pixels * per_image(torch.tensor(_GRAY)[None])).sum(dim=1, keepdim=True)
    mean_gray = gray.mean(dim=(2, 3), keepdim=True)
    factors = per_image(torch.from_numpy(views.color_jitter))
    brightness, contrast, saturation = factors.split(1, dim=1)  # (n, 1, 1, 1) each
    pixels = torch.lerp(gray, pixels, saturation)
    pixels = brightness * torch.lerp(mean_gray, pixels, contrast)
    return (pixels - per_image(unlit_mean)) / per_image(std)
