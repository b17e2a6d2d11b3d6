"""torchvision's weights in this zoo's networks, where torchvision has the same network.

It has VGG A, B, D and E with and without batch norm, ResNet (V1.5 from 50 layers on), DenseNet and
Inception-v3. Its `alexnet` and `googlenet` are other networks than the papers', and are not taken.

Pictures are normalized as torchvision's transforms do. Its Inception-v3 weights were made for
`transform_input=True`, which maps that normalization to mean 0.5 and deviation 0.5 (of 1); here the
recipe's `input` says so: mean and std 127.5.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pipeline.models.classifier import ImageClassifier
from pipeline.models.weights_file import read_weights
from pipeline.models.zoo import NETWORKS
from pipeline.runtime.errors import UserError

# Our names of torchvision's networks.
COUNTERPARTS = {
    "vgg_a": "vgg11",
    "vgg_a_bn": "vgg11_bn",
    "vgg_b": "vgg13",
    "vgg_b_bn": "vgg13_bn",
    "vgg16": "vgg16",
    "vgg16_bn": "vgg16_bn",
    "vgg19": "vgg19",
    "vgg19_bn": "vgg19_bn",
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50_v1_5": "resnet50",
    "resnet101_v1_5": "resnet101",
    "resnet152_v1_5": "resnet152",
    "densenet121": "densenet121",
    "densenet161": "densenet161",
    "densenet169": "densenet169",
    "densenet201": "densenet201",
    "inception_v3": "inception_v3",
}


def load_torchvision(name: str, source: Mapping[str, Tensor] | Path) -> ImageClassifier:
    """Build our network `name` with the weights of torchvision's same network.

    `source` is a state dict, or a file of one: safetensors, or torch's own format, which is read
    without executing anything in it. Classes and channels are as many as the weights have. The
    network is in evaluation mode. Raises `UserError` for a network that torchvision doesn't have
    in the same form, a file that isn't weights, and weights that don't fit, by the layer's name.
    """
    if name not in COUNTERPARTS:
        raise UserError(
            f"torchvision has no network like '{name}'; it has: {', '.join(COUNTERPARTS)}"
        )
    where = str(source) if isinstance(source, Path) else "weights"
    given = read_weights(source) if isinstance(source, Path) else source
    theirs = {_DENSENET_OF_OLD.sub(r"\1\2", key): value for key, value in given.items()}
    names = _names(name)
    first, last = next(iter(names)), list(names)[-1]
    for key in names:  # old files don't count batches
        if key not in theirs and not key.endswith("num_batches_tracked"):
            raise UserError(f"{where}: {key} is missing; are these weights of another network?")
    # A shape that has no such place is told with the others.
    num_channels = theirs[first].shape[1] if theirs[first].dim() > 1 else 3
    num_classes = len(theirs[last]) if theirs[last].dim() else 1000
    model = NETWORKS[name](num_classes, num_channels)
    model.load_state_dict(_fitting(theirs, names, model.state_dict(), where))
    return model.eval()


# As in files from before module names could hold no dot: `denselayer1.norm.1.weight`.
_DENSENET_OF_OLD = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])(?=\.)")


def _names(name: str) -> dict[str, str]:
    """Map torchvision's names to ours: both networks list the same parts in the same order."""
    # Here, since it takes as long to import as torch, and few ask for it.
    import torchvision

    with torch.device("meta"):
        constructor = getattr(torchvision.models, COUNTERPARTS[name])
        # Else Inception-v3 warns that drawing its initial weights will take another form.
        theirs = constructor(**{"init_weights": False} if name == "inception_v3" else {})
        ours = NETWORKS[name](num_classes=1000)
    return dict(zip(theirs.state_dict(), ours.state_dict(), strict=True))


def _fitting(
    theirs: Mapping[str, Tensor], names: Mapping[str, str], ours: Mapping[str, Tensor], where: str
) -> dict[str, Tensor]:
    for key in theirs.keys() - names.keys():
        raise UserError(f"{where}: {key} has no place; are these weights of another network?")
    fitting = dict(ours)
    for key, own in names.items():
        if key not in theirs:
            continue
        got, wanted = tuple(theirs[key].shape), tuple(ours[own].shape)
        if got != wanted:
            raise UserError(
                f"{where}: {key} is {got}, here {own} is {wanted}; are these weights of another "
                "network?"
            )
        fitting[own] = theirs[key]
    return fitting
