"""Inception-v3 (Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, CVPR 2016).

The paper shows the modules (Figs. 5–8, 10) but not all their sizes. Those are from the authors'
TensorFlow code, and so are the names: `mixed_5b` to `mixed_7c`. Unlike there, and as in
torchvision, batch norm has a scale γ, average pools count their padding as zeros, and dropout is
0.5, not 0.2. `inception_v3_tf` leaves the padding out, as there and in Keras.
"""

from torch import Tensor, cat, nn

from pipeline.models.batch_norm import BatchNorm2d
from pipeline.models.classifier import ImageClassifier, InputShape, WithAuxiliary
from pipeline.models.dropout import Dropout


class ConvBN(nn.Sequential):
    """A convolution without bias, batch norm, ReLU. `same`: height and width are kept."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        *,
        same: bool = True,
    ) -> None:
        super().__init__()
        height, width = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        padding = (height // 2, width // 2) if same else 0
        self.conv = nn.Conv2d(
            in_channels, out_channels, (height, width), stride, padding, bias=False
        )
        self.bn = BatchNorm2d(out_channels, eps=1e-3)
        self.relu = nn.ReLU(inplace=True)


class Branches(nn.Module):
    """Branches side by side on the same input, their channels concatenated."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        return cat([branch(x) for branch in self.children()], dim=1)


def inception_a(in_channels: int, pooled: int) -> Branches:
    """Fig. 5 on 35×35, with 5×5 where the figure has one 3×3; 224 + `pooled` channels."""
    return Branches(
        conv1x1=ConvBN(in_channels, 64, 1),
        conv5x5=nn.Sequential(ConvBN(in_channels, 48, 1), ConvBN(48, 64, 5)),
        double3x3=nn.Sequential(ConvBN(in_channels, 64, 1), ConvBN(64, 96, 3), ConvBN(96, 96, 3)),
        pool=nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1), ConvBN(in_channels, pooled, 1)),
    )


def inception_b(in_channels: int) -> Branches:
    """Fig. 10, from 35×35 to 17×17: 480 channels more."""
    return Branches(
        conv3x3=ConvBN(in_channels, 384, 3, stride=2, same=False),
        double3x3=nn.Sequential(
            ConvBN(in_channels, 64, 1),
            ConvBN(64, 96, 3),
            ConvBN(96, 96, 3, stride=2, same=False),
        ),
        pool=nn.MaxPool2d(3, stride=2),
    )


def inception_c(in_channels: int, width: int) -> Branches:
    """Fig. 6 with n = 7 on 17×17: 7×7 as 1×7 and 7×1, once and twice; 768 channels."""
    return Branches(
        conv1x1=ConvBN(in_channels, 192, 1),
        conv7x7=nn.Sequential(
            ConvBN(in_channels, width, 1),
            ConvBN(width, width, (1, 7)),
            ConvBN(width, 192, (7, 1)),
        ),
        double7x7=nn.Sequential(
            ConvBN(in_channels, width, 1),
            ConvBN(width, width, (7, 1)),
            ConvBN(width, width, (1, 7)),
            ConvBN(width, width, (7, 1)),
            ConvBN(width, 192, (1, 7)),
        ),
        pool=nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1), ConvBN(in_channels, 192, 1)),
    )


def inception_d(in_channels: int) -> Branches:
    """From 17×17 to 8×8 in the manner of Fig. 10: 512 channels more."""
    return Branches(
        conv3x3=nn.Sequential(
            ConvBN(in_channels, 192, 1), ConvBN(192, 320, 3, stride=2, same=False)
        ),
        conv7x7=nn.Sequential(
            ConvBN(in_channels, 192, 1),
            ConvBN(192, 192, (1, 7)),
            ConvBN(192, 192, (7, 1)),
            ConvBN(192, 192, 3, stride=2, same=False),
        ),
        pool=nn.MaxPool2d(3, stride=2),
    )


def inception_e(in_channels: int) -> Branches:
    """Fig. 7 on 8×8: 1×3 beside 3×1; 2048 channels."""
    return Branches(
        conv1x1=ConvBN(in_channels, 320, 1),
        conv3x3=nn.Sequential(ConvBN(in_channels, 384, 1), _1x3_beside_3x1(384)),
        double3x3=nn.Sequential(
            ConvBN(in_channels, 448, 1), ConvBN(448, 384, 3), _1x3_beside_3x1(384)
        ),
        pool=nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1), ConvBN(in_channels, 192, 1)),
    )


def _1x3_beside_3x1(channels: int) -> Branches:
    return Branches(
        conv1x3=ConvBN(channels, channels, (1, 3)),
        conv3x1=ConvBN(channels, channels, (3, 1)),
    )


class InceptionAuxiliary(nn.Sequential):
    """Classifies the last 17×17 layer while the network trains (Fig. 8)."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.pool1 = nn.AvgPool2d(5, stride=3)  # (n, in_channels, 5, 5)
        self.conv1 = ConvBN(in_channels, 128, 1)
        self.conv2 = ConvBN(128, 768, 5, same=False)  # (n, 768, 1, 1)
        self.pool2 = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(768, num_classes)


class InceptionV3(ImageClassifier):
    """Five convolutions and two poolings, eleven modules, global average pooling, a linear layer.

    In training mode it returns `WithAuxiliary`.
    """

    # Below 299 the map is smaller than the auxiliary classifier's 5×5 convolution.
    input_shape = InputShape(num_channels=3, size=299, min_size=299)
    head = ("fc", "auxiliary.fc")

    def __init__(self, num_classes: int, num_channels: int) -> None:
        super().__init__()
        self.conv1a = ConvBN(num_channels, 32, 3, stride=2, same=False)  # (n, 32, 149, 149)
        self.conv2a = ConvBN(32, 32, 3, same=False)  # (n, 32, 147, 147)
        self.conv2b = ConvBN(32, 64, 3)
        self.pool1 = nn.MaxPool2d(3, stride=2)  # (n, 64, 73, 73)
        self.conv3b = ConvBN(64, 80, 1)
        self.conv4a = ConvBN(80, 192, 3, same=False)  # (n, 192, 71, 71)
        self.pool2 = nn.MaxPool2d(3, stride=2)  # (n, 192, 35, 35)
        self.mixed_5b = inception_a(192, pooled=32)  # (n, 256, 35, 35)
        self.mixed_5c = inception_a(256, pooled=64)  # (n, 288, 35, 35)
        self.mixed_5d = inception_a(288, pooled=64)
        self.mixed_6a = inception_b(288)  # (n, 768, 17, 17)
        self.mixed_6b = inception_c(768, width=128)
        self.mixed_6c = inception_c(768, width=160)
        self.mixed_6d = inception_c(768, width=160)
        self.mixed_6e = inception_c(768, width=192)
        self.auxiliary = InceptionAuxiliary(768, num_classes)
        self.mixed_7a = inception_d(768)  # (n, 1280, 8, 8)
        self.mixed_7b = inception_e(1280)  # (n, 2048, 8, 8)
        self.mixed_7c = inception_e(2048)
        self.pool3 = nn.AdaptiveAvgPool2d(1)  # (n, 2048, 1, 1)
        self.flatten = nn.Flatten()
        self.dropout = Dropout(0.5)
        self.fc = nn.Linear(2048, num_classes)
        self._initialize()

    def forward(self, images: Tensor) -> Tensor | WithAuxiliary:
        x = self.pool1(self.conv2b(self.conv2a(self.conv1a(images))))
        x = self.pool2(self.conv4a(self.conv3b(x)))
        x = self.mixed_5d(self.mixed_5c(self.mixed_5b(x)))
        x = self.mixed_6c(self.mixed_6b(self.mixed_6a(x)))
        after_6e = self.mixed_6e(self.mixed_6d(x))
        x = self.mixed_7c(self.mixed_7b(self.mixed_7a(after_6e)))
        logits = self.fc(self.dropout(self.flatten(self.pool3(x))))
        if not self.training:
            return logits
        return WithAuxiliary(logits, (self.auxiliary(after_6e),))

    def _initialize(self) -> None:
        """As the authors' code: normal, cut at two deviations, biases 0; the paper is silent.

        Convolutions have a deviation of 0.1 (before the cut), fully connected layers 0.01, the
        last two of the auxiliary classifier 0.01 and 0.001. torchvision has 0.1 in the last layer
        and cuts at ±2, which is not to cut at all.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                _fill_truncated_normal(layer, std=0.1)
        _fill_truncated_normal(self.fc, std=0.01)
        _fill_truncated_normal(self.auxiliary.conv2.conv, std=0.01)
        _fill_truncated_normal(self.auxiliary.fc, std=0.001)


def _fill_truncated_normal(layer: nn.Conv2d | nn.Linear, std: float) -> None:
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def inception_v3(num_classes: int, num_channels: int = 3) -> InceptionV3:
    """299×299 RGB: 23,834,568 parameters at 1000 classes when tested, 27,161,264 to train."""
    return InceptionV3(num_classes, num_channels)


def inception_v3_tf(num_classes: int, num_channels: int = 3) -> InceptionV3:
    """As TensorFlow and Keras compute it: average pools leave out their padding."""
    network = InceptionV3(num_classes, num_channels)
    for layer in network.modules():
        if isinstance(layer, nn.AvgPool2d):
            layer.count_include_pad = False
    return network
