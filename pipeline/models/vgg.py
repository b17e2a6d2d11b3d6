"""VGG (Simonyan & Zisserman, ICLR 2015): configurations A, A-LRN, B, C, D and E of Table 1.

Small kernels and depth: 3×3 convolutions (in C, some 1×1), halving by 2×2 maxima, three fully
connected layers. `vgg16` is D, `vgg19` is E. The `_bn` forms are not the paper's but torchvision's:
batch norm between every convolution and its ReLU, the convolution's bias kept.
"""

from collections.abc import Mapping
from string import ascii_lowercase

from torch import Tensor, nn

from pipeline.models.batch_norm import BatchNorm2d
from pipeline.models.classifier import ImageClassifier, InputShape
from pipeline.models.dropout import Dropout
from pipeline.models.initialization import fill_normal
from pipeline.models.response_norm import ResponseNorm
from pipeline.runtime.errors import UserError

# Table 1: the channels of the five blocks, and the kernels of each block's convolutions.
CHANNELS = (64, 128, 256, 512, 512)
A = ((3,), (3,), (3, 3), (3, 3), (3, 3))
B = ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3))
C = ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1))
D = ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
E = ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3))

# The layers of A that initialize deeper configurations, and its other layers.
COPIED_FROM_A = {"1_1", "2_1", "3_1", "3_2", "6", "7", "8"}
NOT_COPIED_FROM_A = {"4_1", "4_2", "5_1", "5_2"}


class VGG(ImageClassifier):
    """The layers of one column of Table 1, run in the order in which they are listed."""

    input_shape = InputShape(num_channels=3, size=224, min_size=224, max_size=224)
    head = ("fc8",)

    def __init__(
        self,
        kernels: tuple[tuple[int, ...], ...],
        num_classes: int,
        num_channels: int,
        *,
        response_norm: bool = False,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if not batch_norm:
            self.flat_loss_hint = (
                "likely its published initial weights are too small for so many layers; set "
                "network.initialization: glorot, as the authors recommend"
            )
        width = num_channels  # (n, c, 224, 224)
        for block, (channels, sizes) in enumerate(zip(CHANNELS, kernels, strict=True), start=1):
            for place, size in enumerate(sizes, start=1):
                name = f"{block}_{place}"
                convolution = nn.Conv2d(width, channels, size, padding=size // 2)
                self.add_module(f"conv{name}", convolution)
                if batch_norm:
                    self.add_module(f"bn{name}", BatchNorm2d(channels))
                self.add_module(f"relu{name}", nn.ReLU(inplace=True))
                width = channels
            if response_norm and block == 1:
                self.add_module("norm1", ResponseNorm(size=5, alpha=1e-4, k=2.0))
            self.add_module(f"pool{block}", nn.MaxPool2d(2))  # halves height and width
        self.flatten = nn.Flatten()
        self.fc6 = nn.Linear(512 * 7 * 7, 4096)
        self.relu6 = nn.ReLU(inplace=True)
        self.dropout6 = Dropout(0.5)
        self.fc7 = nn.Linear(4096, 4096)
        self.relu7 = nn.ReLU(inplace=True)
        self.dropout7 = Dropout(0.5)
        self.fc8 = nn.Linear(4096, num_classes)
        self._initialize(batch_norm)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for layer in self.children():
            x = layer(x)
        return x

    def taken_from(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the weights of the same network or, in B to E, those from A (`copied_from_a`)."""
        own = self.state_dict()
        return weights if weights.keys() == own.keys() else copied_from_a(own, weights)

    def _initialize(self, batch_norm: bool) -> None:
        """§3.1: weights from a normal distribution of mean 0, here N(0, 0.01²); biases 0.

        "10⁻² variance", the paper says. Literally that is a deviation of 0.1, with which A's
        logits start around 10⁶ for images of unit variance; most replications take 0.01 to be
        meant. The `_bn` forms start as torchvision's: convolutions from N(0, 2 / fan-out), fully
        connected layers from N(0, 0.01²).
        """
        for layer in self.children():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                fill_normal(layer, std=0.01)
            if batch_norm and isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def copied_from_a(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return "the first four convolutional layers" and last three of A, by which B to E start.

    That is §3.1. `own` is the state of B to E, `weights` that of a trained `vgg_a` (of `vgg_a_bn`
    for a `_bn` form, whose batch norm is copied with its convolution). A's first four are conv1_1,
    conv2_1, conv3_1 and conv3_2; each is copied to the layer of its name, since only there do the
    shapes match: the second convolution of B to E has 64 channels, A's 128. The other layers keep
    their random initial weights. Raises `UserError` if the weights are not A's.
    """
    layers = {name: name.partition(".")[0].lstrip(ascii_lowercase) for name in own}
    names_of_a = {n for n, layer in layers.items() if layer in COPIED_FROM_A | NOT_COPIED_FROM_A}
    for name in sorted(names_of_a ^ weights.keys()):
        difference = "holds" if name in weights else "lacks"
        raise UserError(
            f"weights to start from: unlike a trained vgg_a, this {difference} {name}; give "
            "those of vgg_a (of vgg_a_bn for a network with batch norm)"
        )
    return {name: weights[name] for name, layer in layers.items() if layer in COPIED_FROM_A}


def vgg_a(num_classes: int, num_channels: int = 3) -> VGG:
    """Configuration A, 11 layers: 132,863,336 parameters at 1000 classes."""
    return VGG(A, num_classes, num_channels)


def vgg_a_lrn(num_classes: int, num_channels: int = 3) -> VGG:
    """A with AlexNet's response normalization after the first layer."""
    return VGG(A, num_classes, num_channels, response_norm=True)


def vgg_b(num_classes: int, num_channels: int = 3) -> VGG:
    """Configuration B, 13 layers."""
    return VGG(B, num_classes, num_channels)


def vgg_c(num_classes: int, num_channels: int = 3) -> VGG:
    """Configuration C, 16 layers: D with 1×1 kernels in three of them."""
    return VGG(C, num_classes, num_channels)


def vgg16(num_classes: int, num_channels: int = 3) -> VGG:
    """Configuration D, 16 layers: 138,357,544 parameters at 1000 classes."""
    return VGG(D, num_classes, num_channels)


def vgg19(num_classes: int, num_channels: int = 3) -> VGG:
    """Configuration E, 19 layers: 143,667,240 parameters at 1000 classes."""
    return VGG(E, num_classes, num_channels)


def vgg_a_bn(num_classes: int, num_channels: int = 3) -> VGG:
    return VGG(A, num_classes, num_channels, batch_norm=True)


def vgg_b_bn(num_classes: int, num_channels: int = 3) -> VGG:
    return VGG(B, num_classes, num_channels, batch_norm=True)


def vgg16_bn(num_classes: int, num_channels: int = 3) -> VGG:
    return VGG(D, num_classes, num_channels, batch_norm=True)


def vgg19_bn(num_classes: int, num_channels: int = 3) -> VGG:
    return VGG(E, num_classes, num_channels, batch_norm=True)
