"""Layers of which PyTorch has no deterministic implementation on a GPU."""

from torch import nn

# By `torch.use_deterministic_algorithms`. Those of the zoo are not among them: the backward passes
# of `MaxPool2d` and `AvgPool2d` gather what each pixel gets, instead of adding atomically, and
# `AdaptiveAvgPool2d(1)` is a mean.
_LAYERS = (
    *(nn.AvgPool3d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool2d),
    *(nn.FractionalMaxPool2d, nn.FractionalMaxPool3d),
    *(nn.MaxUnpool1d, nn.MaxUnpool2d, nn.MaxUnpool3d),
    *(nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
)
_UPSAMPLING = ("linear", "bilinear", "bicubic", "trilinear")


def nondeterministic_layers(model: nn.Module) -> list[str]:
    """Return the names of such layers of `model`, each with its class: "pool (MaxUnpool2d)"."""
    return [
        f"{name} ({type(layer).__name__})"
        for name, layer in model.named_modules()
        if isinstance(layer, _LAYERS)
        or (isinstance(layer, nn.AdaptiveAvgPool2d) and layer.output_size not in (1, (1, 1)))
        or (isinstance(layer, nn.Upsample) and layer.mode in _UPSAMPLING)
    ]
