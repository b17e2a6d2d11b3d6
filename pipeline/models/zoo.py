"""The networks by name."""

from collections.abc import Callable

from pipeline import recipe
from pipeline.errors import UserError
from pipeline.models import alexnet, lenet, resnet
from pipeline.models.classifier import ImageClassifier

NETWORKS: dict[str, Callable[[int], ImageClassifier]] = {
    "lenet5_modern": lenet.lenet5_modern,
    "alexnet": alexnet.alexnet,
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
    "resnet152": resnet.resnet152,
    "resnet50_v1_5": resnet.resnet50_v1_5,
    "resnet101_v1_5": resnet.resnet101_v1_5,
    "resnet152_v1_5": resnet.resnet152_v1_5,
}


def build_model(network: recipe.Network, input: recipe.Input) -> ImageClassifier:
    """Build the recipe's network, freshly initialised from torch's global random state.

    Under `torch.device("meta")` this costs no memory and only checks. Raises `UserError` for an
    unknown name and for an input that the network can't take.
    """
    if network.name not in NETWORKS:
        raise UserError(
            f"recipe: network.name '{network.name}' is not known; there are: {', '.join(NETWORKS)}"
        )
    model = NETWORKS[network.name](network.num_classes)
    if not model.input_shape.takes(input.num_channels, input.size):
        raise UserError(
            f"recipe: {network.name} can't take input.size {input.size}, input.color {input.color};"
            f" it takes {model.input_shape}: change input or network.name"
        )
    return model
