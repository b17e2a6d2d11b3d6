"""The networks of the zoo, by name."""

from typing import Protocol

from pipeline.config import recipe
from pipeline.models import (
    alexnet,
    densenet,
    googlenet,
    inception,
    lenet,
    mnist1d_networks,
    resnet,
    vgg,
    zfnet,
)
from pipeline.models.classifier import ImageClassifier
from pipeline.models.initialization import fill_glorot, fill_lecun
from pipeline.runtime.errors import UserError
from pipeline.runtime.names import suggest


class Constructor(Protocol):
    """Builds a network with its published initial weights, drawn from torch's global generator."""

    def __call__(self, num_classes: int, num_channels: int = ...) -> ImageClassifier: ...


NETWORKS: dict[str, Constructor] = {
    "lenet5": lenet.lenet5,
    "lenet5_modern": lenet.lenet5_modern,
    "alexnet": alexnet.alexnet,
    "alexnet_code": alexnet.alexnet_code,
    "alexnet_caffe": alexnet.alexnet_caffe,
    "caffenet": alexnet.caffenet,
    "alexnet_one_tower": alexnet.alexnet_one_tower,
    "alexnet_std003": alexnet.alexnet_std003,
    "alexnet_bias01": alexnet.alexnet_bias01,
    "alexnet_std003_bias01": alexnet.alexnet_std003_bias01,
    "zfnet": zfnet.zfnet,
    "vgg_a": vgg.vgg_a,
    "vgg_a_lrn": vgg.vgg_a_lrn,
    "vgg_b": vgg.vgg_b,
    "vgg_c": vgg.vgg_c,
    "vgg16": vgg.vgg16,
    "vgg19": vgg.vgg19,
    "vgg_a_bn": vgg.vgg_a_bn,
    "vgg_b_bn": vgg.vgg_b_bn,
    "vgg16_bn": vgg.vgg16_bn,
    "vgg19_bn": vgg.vgg19_bn,
    "googlenet": googlenet.googlenet,
    "googlenet_bn": googlenet.googlenet_bn,
    "inception_v3": inception.inception_v3,
    "inception_v3_tf": inception.inception_v3_tf,
    "plain18": resnet.plain18,
    "plain34": resnet.plain34,
    "resnet18": resnet.resnet18,
    "resnet18_option_a": resnet.resnet18_option_a,
    "resnet18_option_c": resnet.resnet18_option_c,
    "resnet34": resnet.resnet34,
    "resnet34_option_a": resnet.resnet34_option_a,
    "resnet34_option_c": resnet.resnet34_option_c,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
    "resnet152": resnet.resnet152,
    "resnet50_v1_5": resnet.resnet50_v1_5,
    "resnet101_v1_5": resnet.resnet101_v1_5,
    "resnet152_v1_5": resnet.resnet152_v1_5,
    "resnet50_caffe": resnet.resnet50_caffe,
    "resnet101_caffe": resnet.resnet101_caffe,
    "resnet152_caffe": resnet.resnet152_caffe,
    "densenet121": densenet.densenet121,
    "densenet169": densenet.densenet169,
    "densenet201": densenet.densenet201,
    "densenet264": densenet.densenet264,
    "densenet161": densenet.densenet161,
    "mnist1d_conv": mnist1d_networks.mnist1d_conv,
    "mnist1d_dense": mnist1d_networks.mnist1d_dense,
}


def constructor(name: str) -> Constructor:
    """Return the constructor of network `name`; raise `UserError` with the closest if unknown."""
    if name in NETWORKS:
        return NETWORKS[name]
    raise UserError(f"network '{name}' is not known; {suggest(name, NETWORKS)}")


def build_model(network: recipe.NetworkConfig, input: recipe.InputConfig) -> ImageClassifier:
    """Build the recipe's network with initial weights from torch's global random generator.

    Under `torch.device("meta")` this allocates nothing and only checks. Raises `UserError` for an
    unknown name, for an input that the network doesn't accept, and for an option it doesn't have.
    """
    model = constructor(network.name)(network.num_classes, input.num_channels)
    shape = model.input_shape
    if not shape.accepts(input.size, input.dimensions):
        raise UserError(
            f"recipe: {network.name} can't take input.size {input.size}, input.dimensions "
            f"{input.dimensions}; it takes {shape}: change input or network.name"
        )
    if network.initialization != "published":
        {"glorot": fill_glorot, "lecun": fill_lecun}[network.initialization](model)
        model.flat_loss_hint = "try another optimizer.learning_rate"
    if network.recompute and not model.can_recompute:
        raise UserError(f"recipe: {network.name} has no network.recompute; leave it out")
    model.recompute = network.recompute
    return model
