"""Weights that others trained, as those of a network of the zoo."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pipeline.data.store.manifest import ImageClass
from pipeline.models.classifier import ImageClassifier
from pipeline.models.zoo import NETWORKS
from pipeline.pretrained.preprocessing import Preprocessing
from pipeline.runtime.errors import UserError

COUNTS = "num_batches_tracked"  # of batch norm: of no use after a training
AUXILIARY = "auxiliary"  # classifiers that only trainings apply; many files lack them
ANY_CLASSES = 10  # to build a network for its names alone; LeNet-5 can't have others


@dataclass(frozen=True)
class PretrainedWeights:
    """A network of the zoo, and weights for all of it from a file of another project.

    `weights` is the network's whole state dict, on the CPU. `preprocessing` is what such networks
    were trained to see. `classes` are those of its outputs, where the file names them. `remarks`
    tell the user what was chosen in reading, a sentence each.
    """

    network: str
    weights: Mapping[str, Tensor]
    num_classes: int
    num_channels: int = 3
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    classes: tuple[ImageClass, ...] = ()
    remarks: tuple[str, ...] = ()

    def build(self) -> ImageClassifier:
        """Build the network with these weights, in evaluation mode."""
        model = NETWORKS[self.network](self.num_classes, self.num_channels)
        model.load_state_dict(self.weights)
        return model.eval()


def weighted_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that hold weights by their names, in the network's order."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d)
    }


def fit_weights(
    network: str, weights: Mapping[str, Tensor], where: str, names: Mapping[str, str]
) -> PretrainedWeights:
    """Return `weights`, by the names of the zoo's `network`, as all that it needs.

    The numbers of classes and channels are those of the first and the last of them. Auxiliary
    classifiers may be missing; they get initial weights. `names` are those in the file, for
    messages, and `where` it is. Raises `UserError` for what is missing, and for other shapes.
    """
    with torch.device("meta"):
        own_names = NETWORKS[network](ANY_CLASSES).state_dict()
    kept = [key for key in own_names if key in weights and not key.startswith(AUXILIARY)]
    if not kept:
        raise UserError(f"{where}: has no layer of {network}")
    # Those without that dimension are reported below, with the other mismatches.
    first, last = weights[kept[0]], weights[kept[-1]]
    num_channels = first.shape[1] if first.dim() > 1 else 3
    num_classes = len(last) if last.dim() else 1000
    with torch.device("meta"):
        ours = NETWORKS[network](num_classes, num_channels).state_dict()
    for own, value in weights.items():
        got, wanted = tuple(value.shape), tuple(ours[own].shape)
        if got != wanted:
            raise UserError(
                f"{where}: {names.get(own, own)} is {got}, here {own} is {wanted}; are these "
                "weights of another network?"
            )
    absent = [key for key in ours if key not in weights and not key.endswith(COUNTS)]
    for key in absent:
        if not key.startswith(AUXILIARY):
            raise UserError(f"{where}: {names.get(key, key)} is missing, for {network}'s {key}")
    whole = {key: torch.zeros((), dtype=torch.long) for key in ours if key.endswith(COUNTS)}
    remarks: tuple[str, ...] = ()
    if absent:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            initial = NETWORKS[network](num_classes, num_channels).state_dict()
        whole |= {key: initial[key] for key in absent}
        remarks = ("The auxiliary classifiers, for training only, keep initial weights.",)
    return PretrainedWeights(
        network, {**whole, **weights}, num_classes, num_channels, remarks=remarks
    )
