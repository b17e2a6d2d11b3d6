"""Residual networks (He, Zhang, Ren, Sun, CVPR 2016): 18, 34, 50, 101 and 152 layers.

Shortcuts are the paper's option B: a 1×1 projection where the shape changes, else the identity.
The plain names are the paper's networks. `_v1_5` moves the stride of a bottleneck from the first
1×1 convolution to the 3×3, as fb.resnet.torch and torchvision do: same parameters, 6 % more
multiply-adds at 50 layers, and better accuracy.
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from pipeline.models.classifier import ImageClassifier, InputShape
from pipeline.models.initialization import fill_normal, he_std


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut (Fig. 5, left)."""

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(in_channels, width, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return self.relu(residual + self.shortcut(x))


class Bottleneck(nn.Module):
    """1×1 to `width` channels, 3×3, 1×1 to four times as many, a shortcut (Fig. 5, right)."""

    expansion: ClassVar[int] = 4
    stride_in_3x3: ClassVar[bool] = False

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        first, second = (1, stride) if self.stride_in_3x3 else (stride, 1)
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride=first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=second, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        return self.relu(residual + self.shortcut(x))


class BottleneckV15(Bottleneck):
    """The bottleneck with its stride in the 3×3 convolution."""

    stride_in_3x3 = True


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class ResNet(ImageClassifier):
    """A stem, four stages of residual blocks, global average pooling (Table 1)."""

    input_shape = InputShape(num_channels=3, size=224, min_size=32)

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        num_blocks: Sequence[int],
        num_classes: int,
        num_channels: int,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(
            num_channels, 64, 7, stride=2, padding=3, bias=False
        )  # (n, 64, 112, 112)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.pool1 = nn.MaxPool2d(3, stride=2, padding=1)  # (n, 64, 56, 56)
        expansion = block.expansion
        n2, n3, n4, n5 = num_blocks
        self.conv2_x = _stage(block, n2, 64, 64, stride=1)  # (n, 64·expansion, 56, 56)
        self.conv3_x = _stage(block, n3, 64 * expansion, 128, stride=2)  # 28×28
        self.conv4_x = _stage(block, n4, 128 * expansion, 256, stride=2)  # 14×14
        self.conv5_x = _stage(block, n5, 256 * expansion, 512, stride=2)  # 7×7
        self.pool5 = nn.AdaptiveAvgPool2d(1)  # (n, 512·expansion, 1, 1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(512 * expansion, num_classes)
        self._initialize()

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool1(self.relu(self.bn1(self.conv1(images))))
        x = self.conv5_x(self.conv4_x(self.conv3_x(self.conv2_x(x))))
        return self.fc(self.flatten(self.pool5(x)))

    def _initialize(self) -> None:
        """Convolutions from N(0, 2 / fan-in), as the paper's reference He et al. 2015, §2.2.

        fb.resnet.torch and torchvision take fan-out. Batch norm starts at γ = 1, β = 0. The paper
        is silent on the last layer: N(0, 0.01²) and bias 0, as Goyal et al. 2017, §5.1.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                fill_normal(layer, std=he_std(layer))
        fill_normal(self.fc, std=0.01)


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    num_blocks: int,
    in_channels: int,
    width: int,
    stride: int,
) -> nn.Sequential:
    out_channels = width * block.expansion
    rest = [block(out_channels, width, stride=1) for _ in range(num_blocks - 1)]
    return nn.Sequential(block(in_channels, width, stride), *rest)


def resnet18(num_classes: int, num_channels: int = 3) -> ResNet:
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, num_channels)


def resnet34(num_classes: int, num_channels: int = 3) -> ResNet:
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, num_channels)


def resnet50(num_classes: int, num_channels: int = 3) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, num_channels)


def resnet101(num_classes: int, num_channels: int = 3) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes, num_channels)


def resnet152(num_classes: int, num_channels: int = 3) -> ResNet:
    return ResNet(Bottleneck, (3, 8, 36, 3), num_classes, num_channels)


def resnet50_v1_5(num_classes: int, num_channels: int = 3) -> ResNet:
    return ResNet(BottleneckV15, (3, 4, 6, 3), num_classes, num_channels)


def resnet101_v1_5(num_classes: int, num_channels: int = 3) -> ResNet:
    return ResNet(BottleneckV15, (3, 4, 23, 3), num_classes, num_channels)


def resnet152_v1_5(num_classes: int, num_channels: int = 3) -> ResNet:
    return ResNet(BottleneckV15, (3, 8, 36, 3), num_classes, num_channels)
