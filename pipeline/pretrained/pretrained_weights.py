"""Weights that others trained, as those of a network of the zoo."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from pipeline.models.classifier import ImageClassifier
from pipeline.models.zoo import NETWORKS
from pipeline.pretrained.preprocessing import Preprocessing


@dataclass(frozen=True)
class PretrainedWeights:
    """A network of the zoo, and weights for all of it from a file of another project.

    `weights` is the network's whole state dict, on the CPU. `preprocessing` is what such networks
    were trained to see. `remarks` tell the user what was chosen in reading, a sentence each.
    """

    network: str
    weights: Mapping[str, Tensor]
    num_classes: int
    num_channels: int = 3
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    remarks: tuple[str, ...] = ()

    def build(self) -> ImageClassifier:
        """Build the network with these weights, in evaluation mode."""
        model = NETWORKS[self.network](self.num_classes, self.num_channels)
        model.load_state_dict(self.weights)
        return model.eval()
