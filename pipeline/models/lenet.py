"""LeNet-5 (LeCun, Bottou, Bengio, Haffner, Proc. IEEE 1998, §II-B)."""

from torch import Tensor, nn

from pipeline.models.classifier import ImageClassifier, InputShape
from pipeline.models.initialization import fill_normal, he_std


class LeNet5Modern(ImageClassifier):
    """LeNet-5 in the form taught today: the paper's layers and sizes, plain parts in them.

    The paper's third layer C3 connects each map to some of S2's only; here to all. Sub-sampling
    has no parameters and takes the maximum; the activation is ReLU, the output a linear layer for
    softmax in place of distances to drawn digits. 61,706 parameters at 10 classes.
    """

    input_shape = InputShape(num_channels=1, size=32, min_size=32, max_size=32)

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
