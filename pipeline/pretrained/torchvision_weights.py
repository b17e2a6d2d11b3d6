"""Load torchvision's weights into the zoo's networks that torchvision has too.

It has VGG A, B, D and E with and without batch norm, ResNet (V1.5 from 50 layers on), DenseNet and
Inception-v3. Its `alexnet` and `googlenet` are other networks than the papers', and are left out.

Images are normalized as by torchvision's transforms. Its Inception-v3 weights were made for
`transform_input=True`, which maps that normalization to mean 0.5 and deviation 0.5 (of 1); here the
recipe's `input` says so: mean and std 127.5.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pipeline.models.weights_file import read_weights
from pipeline.models.zoo import NETWORKS
from pipeline.pretrained.preprocessing import Preprocessing
from pipeline.pretrained.pretrained_weights import PretrainedWeights
from pipeline.runtime.errors import UserError

# From our names to torchvision's.
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

# See above.
_INCEPTION_V3 = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize=342, crop=299)


def read_torchvision(file: Path, network: str | None, *, ema: bool = False) -> PretrainedWeights:
    """Read weights of a network that torchvision has too; see `formats.PretrainedReader`."""
    if network is None:
        raise UserError(f"--weights torchvision:{file}: say with --network which network it is of")
    return from_torchvision(network, read_weights(file), str(file))


def from_torchvision(
    network: str, weights: Mapping[str, Tensor], where: str = "weights"
) -> PretrainedWeights:
    """Return the weights of torchvision's same network by this zoo's names.

    The numbers of classes and channels are those of the weights. Raises `UserError` for a network
    that torchvision doesn't have in the same form, and for weights that don't fit, naming the layer
    and `where` they are.
    """
    if network not in COUNTERPARTS:
        raise UserError(
            f"torchvision has no network like '{network}'; it has: {', '.join(COUNTERPARTS)}"
        )
    theirs = {_OLD_DENSENET_NAMES.sub(r"\1\2", key): value for key, value in weights.items()}
    names = _names(network)
    first, last = next(iter(names)), list(names)[-1]
    for key in names:  # old files don't count batches
        if key not in theirs and not key.endswith("num_batches_tracked"):
            raise UserError(f"{where}: {key} is missing; are these weights of another network?")
    # Weights without that dimension are reported below, with the other mismatches.
    num_channels = theirs[first].shape[1] if theirs[first].dim() > 1 else 3
    num_classes = len(theirs[last]) if theirs[last].dim() else 1000
    with torch.device("meta"):
        ours = NETWORKS[network](num_classes, num_channels).state_dict()
    return PretrainedWeights(
        network=network,
        weights=_converted(theirs, names, ours, where),
        num_classes=num_classes,
        num_channels=num_channels,
        preprocessing=_INCEPTION_V3 if network == "inception_v3" else Preprocessing(),
    )


# The names in old files, when module names could still hold a dot: `denselayer1.norm.1.weight`.
_OLD_DENSENET_NAMES = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])(?=\.)")


def _names(name: str) -> dict[str, str]:
    """Map torchvision's names to ours; both networks list the same layers in the same order."""
    # Imported here, since it takes as long as importing torch and is seldom needed.
    import torchvision

    with torch.device("meta"):
        # Without it Inception-v3 warns of a coming change of its initial weights.
        options = {"init_weights": False} if name == "inception_v3" else {}
        theirs = torchvision.models.get_model(COUNTERPARTS[name], **options)
        ours = NETWORKS[name](num_classes=1000)
    return dict(zip(theirs.state_dict(), ours.state_dict(), strict=True))


def _converted(
    theirs: Mapping[str, Tensor], names: Mapping[str, str], ours: Mapping[str, Tensor], where: str
) -> dict[str, Tensor]:
    for key in theirs.keys() - names.keys():
        raise UserError(f"{where}: {key} has no place; are these weights of another network?")
    converted = {
        key: torch.zeros((), dtype=torch.long)
        for key in ours
        if key.endswith("num_batches_tracked")
    }
    for key, own in names.items():
        if key not in theirs:
            continue
        got, wanted = tuple(theirs[key].shape), tuple(ours[own].shape)
        if got != wanted:
            raise UserError(
                f"{where}: {key} is {got}, here {own} is {wanted}; are these weights of another "
                "network?"
            )
        converted[own] = theirs[key]
    return converted
