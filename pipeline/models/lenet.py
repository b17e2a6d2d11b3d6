"""LeNet-5 (LeCun, Bottou, Bengio, Haffner, Proc. IEEE 1998, §II-B), as published and as taught."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.classifier import ImageClassifier, InputShape
from pipeline.models.initialization import fill_normal, he_std
from pipeline.runtime.errors import UserError

# The maps of S2 that each map of C3 is connected to (Table I).
TABLE_I = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5),
)  # fmt: skip

# The target outputs of F6 for the digits 0 to 9, side by side: 7×12 pixels, +1 where there is ink
# (Fig. 3, as others have transcribed it).
BITMAPS = """
.#####. ...##.. .#####. ####### .#####. .#####. ..####. ####### .#####. .#####.
....... ..###.. ....... .....## ....... ....... .##.... .....## ##...## ##..###
..###.. .####.. .#####. ....##. ....... ####### ##..... .....## ##...## ##...##
.##.##. ...##.. ##...## ...##.. .##..## ##..... ##..... ....##. ##...## ##...##
##...## ...##.. #....## ..####. .##..## ##..... ######. ...##.. .#####. ##..###
##...## ...##.. ....##. .....## ###..## .####.. ###..## ...##.. ##...## .######
##...## ...##.. ..###.. .....## ##...## ..####. ##...## ..##... ##...## .....##
##...## ...##.. .##.... .....## ##...## .....## ##...## ..##... ##...## .....##
.##.##. ...##.. ##..... ##...## ##..### ##...## ###..## ..##... ##...## ....##.
..###.. .###### ####### .#####. .###### .#####. .#####. ..##... .#####. .####..
....... ....... ....... ....... .....## ....... ....... ....... ....... .......
....... ....... ....... ....... .....## ....... ....... ....... ....... .......
"""


class Squash(nn.Module):
    """1.7159 · tanh(2a / 3): maps ±1 to ±1, where its curvature is largest (Appendix A)."""

    def forward(self, a: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(a * (2 / 3))


class Subsampling(nn.AvgPool2d):
    """The sum of each 2×2 square, times a coefficient of its map, plus a bias of its map."""

    def __init__(self, num_maps: int) -> None:
        super().__init__(2)
        self.coefficient = nn.Parameter(torch.empty(num_maps, 1, 1))
        self.bias = nn.Parameter(torch.empty(num_maps))

    def forward(self, maps: Tensor) -> Tensor:
        return 4 * super().forward(maps) * self.coefficient + self.bias[:, None, None]


class PartialConvolution(nn.Conv2d):
    """A convolution in which each output map is connected to some input maps only.

    `table` lists them, a row for each output map. `weight`, (pairs, k, k), has a kernel for every
    pair of connected maps, row by row.
    """

    def __init__(
        self, num_channels: int, table: tuple[tuple[int, ...], ...], kernel_size: int
    ) -> None:
        super().__init__(num_channels, len(table), kernel_size)
        self._inputs = [index for row in table for index in row]
        self._outputs = [index for index, row in enumerate(table) for _ in row]
        self.weight = nn.Parameter(torch.empty(len(self._inputs), kernel_size, kernel_size))

    def forward(self, maps: Tensor) -> Tensor:
        dense = self.weight.new_zeros(self.out_channels, self.in_channels, *self.kernel_size)
        dense[self._outputs, self._inputs] = self.weight
        return F.conv2d(maps, dense, self.bias)

    @property
    def fans(self) -> tuple[Tensor, Tensor]:
        """Fan-in and fan-out of each kernel, (pairs, 1, 1)."""
        num_inputs = torch.tensor([self._outputs.count(index) for index in self._outputs])
        num_outputs = torch.tensor([self._inputs.count(index) for index in self._inputs])
        area = self.weight[0].numel()
        return num_inputs[:, None, None] * area, num_outputs[:, None, None] * area

    @torch.no_grad()
    def fill_uniform(self, numerator: float) -> None:
        """Draw from U(±`numerator` / F), where F is the fan-in of a unit of the map."""
        bounds = numerator / self.fans[0]
        assert self.bias is not None
        self.weight.uniform_(-1, 1).mul_(bounds)
        firsts = [self._outputs.index(index) for index in range(self.out_channels)]
        self.bias.uniform_(-1, 1).mul_(bounds[firsts, 0, 0])


class RadialBasisOutput(nn.Module):
    """Minus the squared distance from F6, (n, 84), to each digit's bitmap: logits (n, classes)."""

    bitmaps: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("bitmaps", digit_bitmaps()[:num_classes])

    def forward(self, codes: Tensor) -> Tensor:
        return -((codes[:, None] - self.bitmaps) ** 2).sum(dim=2)


def digit_bitmaps() -> Tensor:
    """Return the targets of F6, float (10, 84) of ±1, row by row."""
    rows = [line.split() for line in BITMAPS.strip().splitlines()]
    ink = [[pixel == "#" for row in rows for pixel in row[digit]] for digit in range(10)]
    return torch.tensor(ink, dtype=torch.float32) * 2 - 1


class LeNet5(ImageClassifier):
    """The network of 1998: 60,000 trainable parameters, 340,908 connections.

    Its outputs are the squared distances of F6 from a fixed bitmap of each of the ten digits. Here
    they are negated, so that the highest logit is the nearest digit.
    """

    input_shape = InputShape(num_channels=1, size=32, min_size=32, max_size=32)
    head = ("layers.13",)
    published_classes = 10

    def __init__(self, num_classes: int, num_channels: int) -> None:
        super().__init__()
        if num_classes > 10:
            raise UserError(
                f"lenet5 has bitmaps of 10 digits, not of {num_classes} classes; choose "
                "lenet5_modern"
            )
        self.layers = nn.Sequential(  # (n, c, 32, 32)
            nn.Conv2d(num_channels, 6, 5),  # C1: (n, 6, 28, 28)
            Squash(),
            Subsampling(6),  # S2: (n, 6, 14, 14)
            Squash(),
            PartialConvolution(6, TABLE_I, 5),  # C3: (n, 16, 10, 10)
            Squash(),
            Subsampling(16),  # S4: (n, 16, 5, 5)
            Squash(),
            nn.Conv2d(16, 120, 5),  # C5: (n, 120, 1, 1)
            Squash(),
            nn.Flatten(),
            nn.Linear(120, 84),  # F6
            Squash(),
            RadialBasisOutput(num_classes),
        )
        self._initialize()

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)

    def _initialize(self) -> None:
        """Weights and biases from U(±2.4 / F), where F is the fan-in of a unit (Appendix A)."""
        for layer in self.modules():
            match layer:
                case PartialConvolution():
                    layer.fill_uniform(2.4)
                case nn.Conv2d() | nn.Linear():
                    _fill_uniform(layer, 2.4 / layer.weight[0].numel())
                case Subsampling():
                    _fill_uniform(layer, 2.4 / 4)


def _fill_uniform(layer: nn.Module, bound: float) -> None:
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound)


class LeNet5Modern(ImageClassifier):
    """LeNet-5 in the form taught today: the paper's layers and sizes, plain parts in them.

    The paper's third layer C3 connects each map to some of S2's only; here to all. Sub-sampling
    has no parameters and takes the maximum; the activation is ReLU, the output a linear layer for
    softmax in place of distances to bitmaps. 61,706 parameters at 10 classes.
    """

    input_shape = InputShape(num_channels=1, size=32, min_size=32, max_size=32)
    head = ("layers.11",)
    published_classes = 10

    def __init__(self, num_classes: int, num_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(  # (n, c, 32, 32)
            nn.Conv2d(num_channels, 6, 5),  # C1: (n, 6, 28, 28)
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),  # S2: (n, 6, 14, 14)
            nn.Conv2d(6, 16, 5),  # C3: (n, 16, 10, 10)
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),  # S4: (n, 16, 5, 5)
            nn.Conv2d(16, 120, 5),  # C5: (n, 120, 1, 1)
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(120, 84),  # F6
            nn.ReLU(inplace=True),
            nn.Linear(84, num_classes),
        )
        self._initialize()

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)

    def _initialize(self) -> None:
        """Weights from N(0, 2 / fan-in), made for ReLU (He et al. 2015, §2.2); biases 0."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                fill_normal(layer, std=he_std(layer))


def lenet5_modern(num_classes: int, num_channels: int = 1) -> LeNet5Modern:
    """LeNet-5 with ReLU, maximum pooling and softmax: 32×32 gray, 416,520 multiply-adds."""
    return LeNet5Modern(num_classes, num_channels)


def lenet5(num_classes: int, num_channels: int = 1) -> LeNet5:
    """The paper's LeNet-5: 32×32 gray, at most 10 classes, 325,680 multiply-adds."""
    return LeNet5(num_classes, num_channels)
