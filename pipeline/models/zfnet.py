"""ZFNet (Zeiler & Fergus, ECCV 2014, §4 and Fig. 3): AlexNet with smaller windows at the start.

7×7 kernels and stride 2 in place of 11×11 and 4, no groups. The paper gives the kernels, strides
and widths; paddings are such that its map sizes come out, 110, 55, 26, 13 and 6.
"""

from torch import Tensor, nn

from pipeline.models.classifier import ImageClassifier, InputShape
from pipeline.models.dropout import Dropout
from pipeline.models.initialization import fill_normal
from pipeline.models.response_norm import ResponseNorm


class ZFNet(ImageClassifier):
    """Five convolutions, three fully connected layers, run in the order in which they are listed.

    The paper normalizes contrast across maps after the first two pools and gives no constants;
    here they are AlexNet's.
    """

    input_shape = InputShape(num_channels=3, size=224, min_size=224, max_size=224)
    head = ("fc8",)

    def __init__(self, num_classes: int, num_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_channels, 96, 7, stride=2, padding=1)  # (n, 96, 110, 110)
        self.relu1 = nn.ReLU(inplace=True)
        self.pool1 = nn.MaxPool2d(3, stride=2, padding=1)  # (n, 96, 55, 55)
        self.norm1 = ResponseNorm(size=5, alpha=1e-4, k=2.0)
        self.conv2 = nn.Conv2d(96, 256, 5, stride=2)  # (n, 256, 26, 26)
        self.relu2 = nn.ReLU(inplace=True)
        self.pool2 = nn.MaxPool2d(3, stride=2, padding=1)  # (n, 256, 13, 13)
        self.norm2 = ResponseNorm(size=5, alpha=1e-4, k=2.0)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.relu3 = nn.ReLU(inplace=True)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1)
        self.relu4 = nn.ReLU(inplace=True)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1)
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
        self._initialize()

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for layer in self.children():
            x = layer(x)
        return x

    def _initialize(self) -> None:
        """ "All weights are initialized to 10⁻² and biases are set to 0" (§3): N(0, 0.01²)."""
        for layer in self.children():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                fill_normal(layer, std=0.01)


def zfnet(num_classes: int, num_channels: int = 3) -> ZFNet:
    """224×224 RGB: 62,357,608 parameters, 1,168,032,896 multiply-adds at 1000 classes."""
    return ZFNet(num_classes, num_channels)
