"""Load timm's weights of ResNet (V1.5 from 50 layers on), VGG, DenseNet and Inception-v3.

timm names layers as torchvision does, but for the last ones of VGG, whose first fully connected
layer is a convolution there. The weights of one name were trained in several ways, which see images
differently: `config.json` beside a file, as on Hugging Face, says how; without it the preprocessing
of timm's default weights is assumed.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.models.weights_file import read_saved_weights
from pipeline.pretrained.preprocessing import Preprocessing
from pipeline.pretrained.pretrained_weights import PretrainedWeights
from pipeline.pretrained.torchvision_weights import from_torchvision
from pipeline.runtime.errors import UserError

# Of VGG, from timm's names to torchvision's.
_VGG_NAMES = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3"}
_VGG_NAMES |= {"head.fc": "classifier.6"}

_CONFIG = "config.json"
_LARGEST_CONFIG = 1_000_000  # bytes
_HALF = (0.5, 0.5, 0.5)


def read_timm(file: Path, network: str | None, *, ema: bool = False) -> PretrainedWeights:
    """Read weights of a network that timm has too; see `formats.PretrainedReader`.

    `network` may be timm's name, also with its tag (resnet50.a1_in1k), or this zoo's.
    """
    saved = read_saved_weights(file, ema=ema)
    name = network and network.partition(".")[0]
    weights = _as_torchvisions(saved.weights)
    found = from_torchvision(name or None, weights, str(file), "timm")
    preprocessing, remark = _preprocessing(file, found.network)
    remarks = (*saved.remarks, *found.remarks, remark)
    return replace(found, preprocessing=preprocessing, remarks=remarks)


def _as_torchvisions(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights by torchvision's names, VGG's first linear layer as a matrix."""
    named = {}
    for key, value in weights.items():
        layer, _, kind = key.rpartition(".")
        is_kernel = layer in _VGG_NAMES and value.dim() == 4
        named[f"{_VGG_NAMES.get(layer, layer)}.{kind}"] = value.flatten(1) if is_kernel else value
    return named


def _preprocessing(file: Path, network: str) -> tuple[Preprocessing, str]:
    """Return what the network sees, and a sentence about where that is from."""
    config = file.with_name(_CONFIG)
    if config.is_file():
        return _declared(config), f"{config.name} beside the weights says what they see"
    if network.startswith("resnet"):
        assumed = Preprocessing(resize=235, interpolation="bicubic")  # ⌊224 / 0.95⌋
    elif network == "inception_v3":
        assumed = Preprocessing(
            mean=_HALF, std=_HALF, resize=341, crop=299, interpolation="bicubic"
        )
    else:
        kind: Any = "bicubic" if network.startswith("densenet") else "bilinear"
        assumed = Preprocessing(interpolation=kind)
    return assumed, (
        f"{file.name}: assumed to be timm's default weights, which see the centre {assumed.crop} "
        f"of {assumed.resize}, {assumed.interpolation}; declare others with --preprocessing"
    )


def _declared(config: Path) -> Preprocessing:
    """Return the preprocessing of a model's configuration, at the size that it was trained at."""
    try:
        if config.stat().st_size > _LARGEST_CONFIG:
            raise ValueError("it is too large")
        content = json.loads(config.read_text(encoding="utf-8"))
        declared = content.get("pretrained_cfg", content)
        size = int(declared["input_size"][-1])
        side = int(size / float(declared.get("crop_pct", 0.875)))
        return Preprocessing.model_validate(
            {
                "mean": declared["mean"],
                "std": declared["std"],
                "resize": side,
                "crop": size,
                "squash": declared.get("crop_mode") == "squash",
                "interpolation": declared.get("interpolation", "bicubic"),
            }
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise UserError(
            f"{config}: doesn't say what the network sees ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:100]}); move it away, and declare that with "
            "--preprocessing"
        ) from None
