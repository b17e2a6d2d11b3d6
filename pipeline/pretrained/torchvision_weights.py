"""Load torchvision's weights into the zoo's networks that torchvision has too.

It has VGG A, B, D and E with and without batch norm, ResNet (V1.5 from 50 layers on), DenseNet and
Inception-v3. Its `alexnet` and `googlenet` are other networks than the papers', and are left out.

Images are normalized as by torchvision's transforms. Its Inception-v3 weights were made for
`transform_input=True`, which maps that normalization to mean 0.5 and deviation 0.5 (of 1); here the
recipe's `input` says so: mean and std 127.5.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.models.weights_file import read_saved_weights
from pipeline.models.zoo import NETWORKS
from pipeline.pretrained.preprocessing import Preprocessing
from pipeline.pretrained.pretrained_weights import COUNTS, PretrainedWeights, fit_weights
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

# What torchvision calls by a paper's name, and is another network.
OTHERS = {
    "alexnet": "its alexnet is that of Krizhevsky 2014, of one tower and without normalization",
    "googlenet": "its googlenet has batch norm, and 3×3 in place of 5×5 convolutions",
}

# See above.
_INCEPTION_V3 = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize=342, crop=299)
# Only trainings apply it, and not every file has it.
AUXILIARY = "AuxLogits."


def read_torchvision(file: Path, network: str | None, *, ema: bool = False) -> PretrainedWeights:
    """Read weights of a network that torchvision has too; see `formats.PretrainedReader`.

    `network` may be torchvision's name or this zoo's.
    """
    saved = read_saved_weights(file, ema=ema)
    weights = from_torchvision(network, saved.weights, str(file))
    return replace(weights, remarks=(*saved.remarks, *weights.remarks))


def from_torchvision(
    network: str | None,
    weights: Mapping[str, Tensor],
    where: str = "weights",
    whose: str = "torchvision",
) -> PretrainedWeights:
    """Return the weights of torchvision's same network by this zoo's names.

    network: its name here or there; None where its layers tell. whose: what has the same networks
    by the same names, for messages. The numbers of classes and channels are those of the weights.
    Raises `UserError` for a network that torchvision doesn't have in the same form, and for weights
    that don't fit, naming the layer and `where` they are.
    """
    theirs = {_OLD_DENSENET_NAMES.sub(r"\1\2", key): value for key, value in weights.items()}
    remarks: tuple[str, ...] = ()
    if network is None:
        network = _recognized(theirs)
        if network is None:
            raise UserError(
                f"{where}: its layers ({', '.join(list(theirs)[:3])} …) are of no network that "
                f"{whose} and this zoo both have; name it with --network"
            )
        remarks = (f"{Path(where).name}: its layers are those of {network}",)
    elif (asked := network) != (network := _counterpart(network, whose)):
        own_form = network.startswith(asked) and asked in NETWORKS  # not only another name
        which = " with the stride in its 3×3 convolutions" if own_form else ""
        remarks = (f"{whose}'s {COUNTERPARTS[network]}{which} is {network} here",)
    fitted = _fitted(network, theirs, where)
    preprocessing = _INCEPTION_V3 if network == "inception_v3" else Preprocessing()
    return replace(fitted, preprocessing=preprocessing, remarks=(*remarks, *fitted.remarks))


def _fitted(network: str, theirs: Mapping[str, Tensor], where: str) -> PretrainedWeights:
    names = own_names(network)
    if not any(key.startswith(AUXILIARY) for key in theirs):
        names = {key: own for key, own in names.items() if not key.startswith(AUXILIARY)}
    # Old files don't count batches.
    missing = [key for key in names if key not in theirs and not key.endswith(COUNTS)]
    strange = [key for key in theirs if key not in names]
    if missing or strange:
        found = _recognized(theirs)
        key, what = (missing[0], "is missing") if missing else (strange[0], "has no place")
        whose = f"its layers are those of {found}" if found else "are these of another network?"
        raise UserError(f"{where}: {key} {what}, for {network}; {whose}")
    return fit_weights(
        network,
        {own: theirs[key] for key, own in names.items() if key in theirs},
        where,
        {own: key for key, own in names.items()},
    )


# The names in old files, when module names could still hold a dot: `denselayer1.norm.1.weight`.
_OLD_DENSENET_NAMES = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])(?=\.)")


def own_names(network: str) -> dict[str, str]:
    """Map torchvision's names to ours; both networks list the same layers in the same order."""
    with torch.device("meta"):
        ours = NETWORKS[network](num_classes=1000)
    return dict(zip(_their_layers(network), ours.state_dict(), strict=True))


def _their_layers(network: str) -> dict[str, Tensor]:
    # Imported here, since it takes as long as importing torch and is seldom needed.
    import torchvision

    with torch.device("meta"):
        # Without it Inception-v3 warns of a coming change of its initial weights.
        options = {"init_weights": False} if network == "inception_v3" else {}
        model = torchvision.models.get_model(COUNTERPARTS[network], **options)
    layers: dict[str, Tensor] = model.state_dict()
    return layers


def _counterpart(name: str, whose: str) -> str:
    """Return this zoo's name of torchvision's network of either name."""
    if name in COUNTERPARTS:
        return name
    for own, theirs in COUNTERPARTS.items():  # resnet50 is another network here
        if theirs == name:
            return own
    why = f"; {OTHERS[name]}" if name in OTHERS and whose == "torchvision" else ""
    raise UserError(
        f"{whose} has no network like '{name}'{why}; it has, as here: {', '.join(COUNTERPARTS)}"
    )


def _recognized(weights: Mapping[str, Tensor]) -> str | None:
    """Return the network whose layers, but for channels and classes, these are, if there is one."""
    for network in COUNTERPARTS:
        layers = {
            key: value
            for key, value in _their_layers(network).items()
            if not key.endswith(COUNTS) and not key.startswith(AUXILIARY)
        }
        inner = list(layers)[1:-2]
        if layers.keys() <= weights.keys() and all(
            weights[key].shape == layers[key].shape for key in inner
        ):
            return network
    return None
