"""Residual networks (He, Zhang, Ren, Sun, CVPR 2016): 18, 34, 50, 101 and 152 layers.

The numbered names have the paper's option B, a 1×1 projection where the shape changes and else the
identity. `_option_a` (zeros in place of new channels, as in
Table 2) and `_option_c` (projections everywhere) are the others of Table 3; `plain18` and `plain34`
have no shortcuts. `_v1_5` moves the stride of a bottleneck from the first 1×1 convolution to the
3×3, as fb.resnet.torch and torchvision do: same parameters, 6 % more multiply-adds at 50 layers,
and better accuracy. `_caffe` has the stem of the authors' released networks: its first pooling
doesn't pad and rounds up, and with 50 layers the first convolution has a bias.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor, nn

from pipeline.models.batch_norm import BatchNorm2d
from pipeline.models.classifier import ImageClassifier, InputShape
from pipeline.models.initialization import fill_normal, he_std

# From (in_channels, out_channels, stride) to the shortcut beside a block's convolutions.
Shortcut = Callable[[int, int, int], nn.Module | None]


def option_a(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The identity, subsampled by `stride`; new channels are 0. No parameters."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.MaxPool2d(1, stride=stride),
        nn.ConstantPad3d((0, 0, 0, 0, 0, out_channels - in_channels), 0.0),
    )


def option_b(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The identity; where the shape changes, a projection."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return option_c(in_channels, out_channels, stride)


def option_c(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """A projection: 1×1 convolution and batch norm."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
        BatchNorm2d(out_channels),
    )


def plain(in_channels: int, out_channels: int, stride: int) -> None:
    """No shortcut: the block is its convolutions."""


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut (Fig. 5, left)."""

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(width)
        self.shortcut = shortcut(in_channels, width, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        if self.shortcut is not None:
            residual = residual + self.shortcut(x)
        return self.relu(residual)


class Bottleneck(nn.Module):
    """1×1 to `width` channels, 3×3, 1×1 to four times as many, a shortcut (Fig. 5, right)."""

    expansion: ClassVar[int] = 4
    stride_in_3x3: ClassVar[bool] = False

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        first, second = (1, stride) if self.stride_in_3x3 else (stride, 1)
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride=first, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=second, padding=1, bias=False)
        self.bn2 = BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = BatchNorm2d(out_channels)
        self.shortcut = shortcut(in_channels, out_channels, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        if self.shortcut is not None:
            residual = residual + self.shortcut(x)
        return self.relu(residual)


class BottleneckV15(Bottleneck):
    """The bottleneck with its stride in the 3×3 convolution."""

    stride_in_3x3 = True


Block = type[BasicBlock] | type[Bottleneck]


class ResNet(ImageClassifier):
    """A stem, four stages of residual blocks, global average pooling (Table 1)."""

    input_shape = InputShape(num_channels=3, size=224, min_size=32)
    head = ("fc",)

    def __init__(
        self,
        block: Block,
        num_blocks: Sequence[int],
        num_classes: int,
        num_channels: int,
        shortcut: Shortcut = option_b,
        *,
        pads_pool1: bool = True,
        bias1: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_channels, 64, 7, stride=2, padding=3, bias=bias1)
        self.bn1 = BatchNorm2d(64)  # (n, 64, 112, 112)
        self.relu = nn.ReLU(inplace=True)
        padding = int(pads_pool1)
        self.pool1 = nn.MaxPool2d(3, 2, padding, ceil_mode=not pads_pool1)  # (n, 64, 56, 56)
        self._in_channels = 64
        n2, n3, n4, n5 = num_blocks
        self.conv2_x = self._stage(block, n2, 64, 1, shortcut)  # (n, 64·expansion, 56, 56)
        self.conv3_x = self._stage(block, n3, 128, 2, shortcut)  # 28×28
        self.conv4_x = self._stage(block, n4, 256, 2, shortcut)  # 14×14
        self.conv5_x = self._stage(block, n5, 512, 2, shortcut)  # 7×7
        self.pool5 = nn.AdaptiveAvgPool2d(1)  # (n, 512·expansion, 1, 1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(512 * block.expansion, num_classes)
        self._initialize()

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool1(self.relu(self.bn1(self.conv1(images))))
        x = self.conv5_x(self.conv4_x(self.conv3_x(self.conv2_x(x))))
        return self.fc(self.flatten(self.pool5(x)))

    def _stage(
        self, block: Block, num_blocks: int, width: int, stride: int, shortcut: Shortcut
    ) -> nn.Sequential:
        in_channels = self._in_channels
        self._in_channels = out_channels = width * block.expansion
        rest = [block(out_channels, width, 1, shortcut) for _ in range(num_blocks - 1)]
        return nn.Sequential(block(in_channels, width, stride, shortcut), *rest)

    def _initialize(self) -> None:
        """Convolutions from N(0, 2 / fan-in), as the paper's reference He et al. 2015, §2.2.

        fb.resnet.torch and torchvision take fan-out. Batch norm starts at γ = 1, β = 0. The paper
        is silent on the last layer: N(0, 0.01²) and bias 0, as Goyal et al. 2017, §5.1.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                fill_normal(layer, std=he_std(layer))
        fill_normal(self.fc, std=0.01)


def plain18(num_classes: int, num_channels: int = 3) -> ResNet:
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, num_channels, plain)


def plain34(num_classes: int, num_channels: int = 3) -> ResNet:
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, num_channels, plain)


def resnet18(num_classes: int, num_channels: int = 3) -> ResNet:
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, num_channels)


def resnet18_option_a(num_classes: int, num_channels: int = 3) -> ResNet:
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, num_channels, option_a)


def resnet18_option_c(num_classes: int, num_channels: int = 3) -> ResNet:
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, num_channels, option_c)


def resnet34(num_classes: int, num_channels: int = 3) -> ResNet:
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, num_channels)


def resnet34_option_a(num_classes: int, num_channels: int = 3) -> ResNet:
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, num_channels, option_a)


def resnet34_option_c(num_classes: int, num_channels: int = 3) -> ResNet:
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, num_channels, option_c)


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


def resnet50_caffe(num_classes: int, num_channels: int = 3) -> ResNet:
    """As the authors' released network: 64 more parameters than `resnet50`, conv1's biases."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, num_channels, pads_pool1=False, bias1=True)


def resnet101_caffe(num_classes: int, num_channels: int = 3) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes, num_channels, pads_pool1=False)


def resnet152_caffe(num_classes: int, num_channels: int = 3) -> ResNet:
    return ResNet(Bottleneck, (3, 8, 36, 3), num_classes, num_channels, pads_pool1=False)
