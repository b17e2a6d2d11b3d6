"""GoogLeNet (Szegedy et al., CVPR 2015): Table 1, with two auxiliary classifiers (§5).

What the paper leaves open is taken from Caffe's replica, bvlc_googlenet: where response
normalization is applied, its k of 1, pools that round up, and the initial weights. torchvision's
`googlenet` is another network: batch norm, 3×3 kernels in place of the 5×5, dropout 0.2.
"""

import math
from functools import partial

from torch import Tensor, cat, nn

from pipeline.models.batch_norm import BatchNorm2d
from pipeline.models.classifier import ImageClassifier, InputShape, WithAuxiliary
from pipeline.models.dropout import Dropout
from pipeline.models.response_norm import ResponseNorm


class ConvUnit(nn.Sequential):
    """A convolution and ReLU; with `batch_norm` between them, the convolution has no bias."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        *,
        batch_norm: bool,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=not batch_norm
        )
        if batch_norm:
            self.bn = BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)


class Inception(nn.Module):
    """Four branches side by side (Fig. 2b); the arguments are the columns of Table 1."""

    def __init__(
        self,
        in_channels: int,
        conv1x1: int,
        reduce3x3: int,
        conv3x3: int,
        reduce5x5: int,
        conv5x5: int,
        pool_proj: int,
        *,
        batch_norm: bool,
    ) -> None:
        super().__init__()
        unit = partial(ConvUnit, batch_norm=batch_norm)
        self.conv1x1 = unit(in_channels, conv1x1, 1)
        self.reduce3x3 = unit(in_channels, reduce3x3, 1)
        self.conv3x3 = unit(reduce3x3, conv3x3, 3)
        self.reduce5x5 = unit(in_channels, reduce5x5, 1)
        self.conv5x5 = unit(reduce5x5, conv5x5, 5)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.pool_proj = unit(in_channels, pool_proj, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = (
            self.conv1x1(x),
            self.conv3x3(self.reduce3x3(x)),
            self.conv5x5(self.reduce5x5(x)),
            self.pool_proj(self.pool(x)),
        )
        return cat(branches, dim=1)


class GoogLeNetAuxiliary(nn.Sequential):
    """Classifies a layer in the middle, so that the gradient reaches it (§5); for training only."""

    def __init__(self, in_channels: int, num_classes: int, *, batch_norm: bool) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(5, stride=3)  # (n, in_channels, 4, 4)
        self.conv = ConvUnit(in_channels, 128, 1, batch_norm=batch_norm)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = Dropout(0.7)
        self.fc2 = nn.Linear(1024, num_classes)


class GoogLeNet(ImageClassifier):
    """A stem, nine inception modules, global average pooling, one fully connected layer.

    In training mode it returns `WithAuxiliary`, the classifier on 4a first, then the one on 4d.
    """

    # fc1 of the auxiliary classifiers takes 4×4 maps.
    input_shape = InputShape(num_channels=3, size=224, min_size=224, max_size=224)
    head = ("fc", "auxiliary1.fc2", "auxiliary2.fc2")

    def __init__(self, num_classes: int, num_channels: int, *, batch_norm: bool) -> None:
        super().__init__()
        unit = partial(ConvUnit, batch_norm=batch_norm)
        inception = partial(Inception, batch_norm=batch_norm)
        auxiliary = partial(GoogLeNetAuxiliary, batch_norm=batch_norm)
        self.conv1 = unit(num_channels, 64, 7, stride=2)
        self.pool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.norm1 = nn.Identity() if batch_norm else ResponseNorm(size=5, alpha=1e-4, k=1.0)
        self.conv2_reduce = unit(64, 64, 1)
        self.conv2 = unit(64, 192, 3)
        self.norm2 = nn.Identity() if batch_norm else ResponseNorm(size=5, alpha=1e-4, k=1.0)
        self.pool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception_3a = inception(192, 64, 96, 128, 16, 32, 32)
        self.inception_3b = inception(256, 128, 128, 192, 32, 96, 64)
        self.pool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception_4a = inception(480, 192, 96, 208, 16, 48, 64)
        self.inception_4b = inception(512, 160, 112, 224, 24, 64, 64)
        self.inception_4c = inception(512, 128, 128, 256, 24, 64, 64)
        self.inception_4d = inception(512, 112, 144, 288, 32, 64, 64)
        self.inception_4e = inception(528, 256, 160, 320, 32, 128, 128)
        self.pool4 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception_5a = inception(832, 256, 160, 320, 32, 128, 128)
        self.inception_5b = inception(832, 384, 192, 384, 48, 128, 128)
        self.auxiliary1 = auxiliary(512, num_classes)
        self.auxiliary2 = auxiliary(528, num_classes)
        self.pool5 = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = Dropout(0.4)
        self.fc = nn.Linear(1024, num_classes)
        self._initialize()

    def forward(self, images: Tensor) -> Tensor | WithAuxiliary:
        x = self.norm1(self.pool1(self.conv1(images)))  # (n, 64, 56, 56)
        x = self.pool2(self.norm2(self.conv2(self.conv2_reduce(x))))  # (n, 192, 28, 28)
        x = self.pool3(self.inception_3b(self.inception_3a(x)))  # (n, 480, 14, 14)
        after_4a = self.inception_4a(x)  # (n, 512, 14, 14)
        after_4d = self.inception_4d(self.inception_4c(self.inception_4b(after_4a)))  # 528
        x = self.pool4(self.inception_4e(after_4d))  # (n, 832, 7, 7)
        x = self.pool5(self.inception_5b(self.inception_5a(x)))  # (n, 1024, 1, 1)
        logits = self.fc(self.dropout(self.flatten(x)))
        if not self.training:
            return logits
        return WithAuxiliary(logits, (self.auxiliary1(after_4a), self.auxiliary2(after_4d)))

    def _initialize(self) -> None:
        """As Caffe's replica, since the paper doesn't say: `xavier`, which is U(±√(3 / fan-in)).

        Biases are 0.2, and 0 in the three layers that give logits.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                bound = math.sqrt(3 / layer.weight[0].numel())
                nn.init.uniform_(layer.weight, -bound, bound)
                if layer.bias is not None:
                    nn.init.constant_(layer.bias, 0.2)
        for layer in (self.fc, self.auxiliary1.fc2, self.auxiliary2.fc2):
            nn.init.zeros_(layer.bias)


def googlenet(num_classes: int, num_channels: int = 3) -> GoogLeNet:
    """The network of the paper: 224×224 RGB, 1,582,671,872 multiply-adds at 1000 classes.

    6,998,552 parameters when tested; 13,378,280 with the auxiliary classifiers.
    """
    return GoogLeNet(num_classes, num_channels, batch_norm=False)


def googlenet_bn(num_classes: int, num_channels: int = 3) -> GoogLeNet:
    """GoogLeNet with batch norm after every convolution, in place of LRN and their biases.

    The 5×5 branch stays, unlike in BN-Inception (Ioffe & Szegedy 2015) and in torchvision.
    """
    return GoogLeNet(num_classes, num_channels, batch_norm=True)
