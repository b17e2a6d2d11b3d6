"""AlexNet (Krizhevsky, Sutskever, Hinton, NIPS 2012, §3): 60,965,224 parameters at 1000 classes.

Two groups where the paper has two GPUs, response normalization, overlapping pooling. torchvision's
`alexnet` is another network (one column, no normalization, 64 filters).

- `alexnet` is the paper's text, with its α of 10⁻⁴ before the normalization's sum of squares.
- `alexnet_code` is the network whose errors the paper reports, as its code ran in 2012.
- `alexnet_caffe` is Caffe's replica (bvlc_alexnet), which takes the 227 pixels of its crops too.
- `caffenet` is Caffe's reference network: that, with each pooling before the normalization.
- `alexnet_one_tower` has no groups: 62,378,344 parameters.
- `alexnet_std003`, `alexnet_bias01` and `alexnet_std003_bias01` are the paper's network with one or
  both of the changes that make it learn more easily: 0.03 as in the code, 0.1 as in Caffe.

The caption of the paper's Figure 2 counts 253,440 neurons in the first layer. It has
55·55·96 = 290,400; 253,440 = 55·48·96 has the maps of one GPU in place of a side.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.models.classifier import ImageClassifier, InputShape
from pipeline.models.dropout import Dropout
from pipeline.models.initialization import fill_normal
from pipeline.models.response_norm import ResponseNorm, SameMapNorm


@dataclass(frozen=True)
class InitialValues:
    """Standard deviations of the initial weights, and the initial biases; the paper's (§5)."""

    std: float = 0.01
    std_of_conv3_to_5: float = 0.01
    std_of_fc6_and_fc7: float = 0.01
    # Of layers 2, 4, 5, 6, 7, "to provide the ReLUs with positive inputs"; the others have 0.
    bias: float = 1.0


# `ResponseNorm` divides α by its window, as the code and Caffe do, and the paper's formula doesn't.
_ALPHA = 5 * 1e-4
_ALPHA_OF_CODE = 1e-4


class AlexNet(ImageClassifier):
    """Five convolutions, three fully connected layers, run in the order in which they are listed.

    Dropout doubles what it keeps in training, where the paper halves all activations in testing.
    """

    input_shape = InputShape(num_channels=3, size=224, min_size=224, max_size=224)
    head = ("fc8",)

    def __init__(
        self,
        num_classes: int,
        num_channels: int,
        initial: InitialValues,
        *,
        groups: int = 2,
        alpha: float = _ALPHA,
        k: float = 2.0,
        as_code: bool = False,
        pool_first: bool = False,
    ) -> None:
        super().__init__()
        # 224 is no whole number of strides: the windows of the last column and row run 3 pixels
        # over the right and bottom edge (cuda-convnet rounds up), where it is 0.
        self.edge = self._make_edge()  # (n, c, 227, 227)
        self.conv1 = nn.Conv2d(num_channels, 96, 11, stride=4)  # (n, 96, 55, 55)
        if not as_code:
            self.relu1 = nn.ReLU(inplace=True)
        if not pool_first:
            self.norm1 = ResponseNorm(size=5, alpha=alpha, k=k)
        self.pool1 = nn.MaxPool2d(3, stride=2)  # (n, 96, 27, 27)
        if pool_first:
            self.norm1 = ResponseNorm(size=5, alpha=alpha, k=k)
        if as_code:  # the first normalization has negative inputs too
            self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=groups)
        self.relu2 = nn.ReLU(inplace=True)
        if not pool_first:
            self.norm2 = ResponseNorm(size=5, alpha=alpha, k=k)
        if as_code:
            self.map_norm2 = SameMapNorm(size=5, alpha=1e-3, k=1.0)
        self.pool2 = nn.MaxPool2d(3, stride=2)  # (n, 256, 13, 13)
        if pool_first:
            self.norm2 = ResponseNorm(size=5, alpha=alpha, k=k)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.relu3 = nn.ReLU(inplace=True)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=groups)
        self.relu4 = nn.ReLU(inplace=True)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=groups)
        self.relu5 = nn.ReLU(inplace=True)
        self.pool5 = nn.MaxPool2d(3, stride=2)  # (n, 256, 6, 6)
        self.flatten = nn.Flatten()
        self.fc6 = nn.Linear(256 * 6 * 6, 4096)
        self.relu6 = nn.ReLU(inplace=True)
        self.dropout6 = Dropout(0.5)
        self.fc7 = nn.Linear(4096, 4096)
        self.relu7 = nn.ReLU(inplace=True)
        self.dropout7 = Dropout(0.5)
        self.fc8 = nn.Linear(4096, num_classes)
        self._initialize(initial)
        if initial.bias == 1:
            self.flat_loss_hint = (
                "likely its initial biases of 1 outweigh the images, as Caffe's authors found; try "
                "biases of 0.1 (network.name: alexnet_bias01 is alexnet with them)"
            )

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for layer in self.children():
            x = layer(x)
        return x

    def _make_edge(self) -> nn.Module:
        return nn.ZeroPad2d((0, 3, 0, 3))

    def _initialize(self, initial: InitialValues) -> None:
        for layer in (self.conv1, self.fc8):
            fill_normal(layer, initial.std)
        fill_normal(self.conv2, initial.std, initial.bias)
        fill_normal(self.conv3, initial.std_of_conv3_to_5)
        for layer in (self.conv4, self.conv5):
            fill_normal(layer, initial.std_of_conv3_to_5, initial.bias)
        for layer in (self.fc6, self.fc7):
            fill_normal(layer, initial.std_of_fc6_and_fc7, initial.bias)


class Edge(nn.ZeroPad2d):
    """Adds zeros on the right and at the bottom up to `size` pixels; larger images stay."""

    def __init__(self, size: int) -> None:
        super().__init__(0)
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        right, bottom = max(self.size - width, 0), max(self.size - height, 0)
        return nn.functional.pad(images, (0, right, 0, bottom))

    def extra_repr(self) -> str:
        return f"size={self.size}"


class CaffeAlexNet(AlexNet):
    """Takes the 227 pixels that Caffe crops, a whole number of strides, and smaller images too."""

    input_shape = InputShape(num_channels=3, size=227, min_size=224, max_size=227)

    def _make_edge(self) -> nn.Module:
        return Edge(227)


def alexnet(num_classes: int, num_channels: int = 3) -> AlexNet:
    """The network of the paper: 224×224 RGB, 724,406,816 multiply-adds at 1000 classes."""
    return AlexNet(num_classes, num_channels, InitialValues())


def alexnet_code(num_classes: int, num_channels: int = 3) -> AlexNet:
    """As the original code's configuration 145, whose logged errors are the paper's.

    Layers 3 to 5 are initialized with a deviation of 0.03, the normalizations' α is a fifth of the
    paper's, the first comes before the ReLU, and another one, within each map, after the second.
    Its k is 1, which cuda-convnet fixes.
    """
    initial = InitialValues(std_of_conv3_to_5=0.03)
    return AlexNet(num_classes, num_channels, initial, alpha=_ALPHA_OF_CODE, as_code=True)


def alexnet_caffe(num_classes: int, num_channels: int = 3) -> AlexNet:
    """As Caffe's bvlc_alexnet: biases 0.1, since 1 "gave flat loss", fc6 and fc7 from 0.005², k 1.

    Caffe crops 227 pixels; of 224, the last three come from the padding, as in the paper's network.
    """
    initial = InitialValues(std_of_fc6_and_fc7=0.005, bias=0.1)
    return CaffeAlexNet(num_classes, num_channels, initial, alpha=_ALPHA_OF_CODE, k=1.0)


def caffenet(num_classes: int, num_channels: int = 3) -> AlexNet:
    """As Caffe's bvlc_reference_caffenet: `alexnet_caffe` with biases 1, poolings before norms."""
    initial = InitialValues(std_of_fc6_and_fc7=0.005)
    return CaffeAlexNet(
        num_classes, num_channels, initial, alpha=_ALPHA_OF_CODE, k=1.0, pool_first=True
    )


def alexnet_one_tower(num_classes: int, num_channels: int = 3) -> AlexNet:
    """The paper's network on one GPU of today: every layer is connected to all maps before it."""
    return AlexNet(num_classes, num_channels, InitialValues(), groups=1)


def alexnet_std003(num_classes: int, num_channels: int = 3) -> AlexNet:
    return AlexNet(num_classes, num_channels, InitialValues(std_of_conv3_to_5=0.03))


def alexnet_bias01(num_classes: int, num_channels: int = 3) -> AlexNet:
    return AlexNet(num_classes, num_channels, InitialValues(bias=0.1))


def alexnet_std003_bias01(num_classes: int, num_channels: int = 3) -> AlexNet:
    return AlexNet(num_classes, num_channels, InitialValues(std_of_conv3_to_5=0.03, bias=0.1))
