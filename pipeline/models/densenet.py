"""DenseNet-BC (Huang, Liu, van der Maaten, Weinberger, CVPR 2017): Table 1.

The input of each layer of a dense block is the concatenation of all before it. "B": a 1×1
convolution to 4k channels comes first; "C": a transition halves the channels. k is the growth rate.

As the authors' code: the last batch norm and its ReLU come before the global pooling.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.models.batch_norm import BatchNorm2d
from pipeline.models.classifier import ImageClassifier, InputShape
from pipeline.models.initialization import fill_normal


class DenseLayer(nn.Module):
    """BN, ReLU, 1×1 to 4k channels, BN, ReLU, 3×3 to k channels (§3, "Bottleneck layers")."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.bn2 = BatchNorm2d(4 * growth)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, *features: Tensor, recompute: bool = False) -> Tensor:
        if recompute and self.training and torch.is_grad_enabled():
            # The batch norm must not update its statistics twice. In a training it writes them
            # where they are the same the second time.
            once: Any = {"context_fn": lambda: (nullcontext(), _statistics_kept(self.bn1))}
            x = checkpoint(
                self._bottleneck,
                *features,
                use_reentrant=False,
                preserve_rng_state=False,
                **(once if self.bn1.training and self.bn1.group_statistics is None else {}),
            )
        else:
            x = self._bottleneck(*features)
        return self.conv2(self.relu2(self.bn2(x)))

    def _bottleneck(self, *features: Tensor) -> Tensor:
        # Its memory is quadratic in the number of layers, and it is cheap to compute again.
        return self.conv1(self.relu1(self.bn1(torch.cat(features, dim=1))))


class DenseBlock(nn.Sequential):
    """`num_layers` layers, each of which adds `growth` channels to its input."""

    def __init__(self, num_layers: int, in_channels: int, growth: int) -> None:
        super().__init__(*(DenseLayer(in_channels + i * growth, growth) for i in range(num_layers)))

    def forward(self, x: Tensor, recompute: bool = False) -> Tensor:
        features = [x]
        for layer in self:
            features.append(layer(*features, recompute=recompute))
        return torch.cat(features, dim=1)


class Transition(nn.Sequential):
    """Halves the channels, the height and the width."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.bn = BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(in_channels, in_channels // 2, 1, bias=False)
        self.pool = nn.AvgPool2d(2)


class DenseNet(ImageClassifier):
    """A stem, four dense blocks with transitions between, global average pooling.

    `recompute` stores no concatenations and no normalized copies of them for the backward pass, so
    that memory grows with the number of layers and not with its square (Pleiss et al. 2017).
    """

    input_shape = InputShape(num_channels=3, size=224, min_size=32)
    head = ("fc",)
    can_recompute = True

    def __init__(
        self, growth: int, num_layers: Sequence[int], num_classes: int, num_channels: int
    ) -> None:
        super().__init__()
        n1, n2, n3, n4 = num_layers
        width = 2 * growth
        self.conv0 = nn.Conv2d(num_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn0 = BatchNorm2d(width)  # (n, 2k, 112, 112)
        self.relu0 = nn.ReLU(inplace=True)
        self.pool0 = nn.MaxPool2d(3, stride=2, padding=1)  # (n, 2k, 56, 56)
        self.block1 = DenseBlock(n1, width, growth)
        width += n1 * growth
        self.transition1 = Transition(width)  # 28×28
        width //= 2
        self.block2 = DenseBlock(n2, width, growth)
        width += n2 * growth
        self.transition2 = Transition(width)  # 14×14
        width //= 2
        self.block3 = DenseBlock(n3, width, growth)
        width += n3 * growth
        self.transition3 = Transition(width)  # 7×7
        width //= 2
        self.block4 = DenseBlock(n4, width, growth)
        width += n4 * growth
        self.bn5 = BatchNorm2d(width)
        self.relu5 = nn.ReLU(inplace=True)
        self.pool5 = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(width, num_classes)
        self._initialize()

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool0(self.relu0(self.bn0(self.conv0(images))))
        x = self.transition1(self.block1(x, self.recompute))
        x = self.transition2(self.block2(x, self.recompute))
        x = self.transition3(self.block3(x, self.recompute))
        x = self.relu5(self.bn5(self.block4(x, self.recompute)))
        return self.fc(self.flatten(self.pool5(x)))

    def _initialize(self) -> None:
        """As the authors' code: convolutions from N(0, 2 / fan-out), batch norm γ = 1, β = 0.

        The last layer keeps Torch's default weights, U(±1/√fan-in), and starts with biases of 0.
        The paper says "as in" He et al. 2015; torchvision takes fan-in.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                fan_out = layer.out_channels * layer.weight[0, 0].numel()
                fill_normal(layer, std=math.sqrt(2 / fan_out))
        bound = 1 / math.sqrt(self.fc.in_features)
        nn.init.uniform_(self.fc.weight, -bound, bound)
        nn.init.zeros_(self.fc.bias)


@contextmanager
def _statistics_kept(norm: BatchNorm2d) -> Iterator[None]:
    """Run `norm` again on the same batch without updating its statistics a second time."""
    momentum, norm.momentum = norm.momentum, 0.0
    try:
        yield
    finally:
        norm.momentum = momentum
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked -= 1


def densenet121(num_classes: int, num_channels: int = 3) -> DenseNet:
    return DenseNet(32, (6, 12, 24, 16), num_classes, num_channels)


def densenet169(num_classes: int, num_channels: int = 3) -> DenseNet:
    return DenseNet(32, (6, 12, 32, 32), num_classes, num_channels)


def densenet201(num_classes: int, num_channels: int = 3) -> DenseNet:
    return DenseNet(32, (6, 12, 48, 32), num_classes, num_channels)


def densenet264(num_classes: int, num_channels: int = 3) -> DenseNet:
    return DenseNet(32, (6, 12, 64, 48), num_classes, num_channels)


def densenet161(num_classes: int, num_channels: int = 3) -> DenseNet:
    """k = 48: 28,681,000 parameters at 1000 classes. Not in the paper; from the authors' code."""
    return DenseNet(48, (6, 12, 36, 24), num_classes, num_channels)
