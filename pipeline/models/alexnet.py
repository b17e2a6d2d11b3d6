"""AlexNet (Krizhevsky, Sutskever, Hinton, NIPS 2012, §3): 60,965,224 parameters at 1000 classes.

As the paper has it: two groups where the paper has two GPUs, response normalization, overlapping
pooling. torchvision's `alexnet` is another network (one column, no normalization, 64 filters).

The caption of the paper's Figure 2 counts 253,440 neurons in the first layer. It has
55·55·96 = 290,400; 253,440 = 55·48·96 has the maps of one GPU in place of a side.
"""

from torch import Tensor, nn

from pipeline.models.classifier import ImageClassifier, InputShape
from pipeline.models.initialization import fill_normal
from pipeline.models.response_norm import ResponseNorm


class AlexNet(ImageClassifier):
    """Five convolutions, three fully connected layers.

    Where the paper and the code behind its numbers differ, this is the paper: ReLU before the
    first normalization, no second normalization after layer 2, one standard deviation of 0.01.
    Two exceptions: the normalization's α is divided by its window (see `ResponseNorm`), as in the
    network that was trained; and dropout doubles what it keeps in training, where the paper
    halves everything in testing.
    """

    input_shape = InputShape(num_channels=3, size=224, min_size=224, max_size=224)

    def __init__(self, num_classes: int, num_channels: int) -> None:
        super().__init__()
        # 224 is no whole number of strides: the windows of the last column and row run 3 pixels
        # over the right and bottom edge (cuda-convnet rounds up), where it is 0.
        self.features = nn.Sequential(  # (n, c, 224, 224)
            nn.ZeroPad2d((0, 3, 0, 3)),
            nn.Conv2d(num_channels, 96, 11, stride=4),  # (n, 96, 55, 55)
            nn.ReLU(inplace=True),
            ResponseNorm(size=5, alpha=1e-4, k=2.0),
            nn.MaxPool2d(3, stride=2),  # (n, 96, 27, 27)
            nn.Conv2d(96, 256, 5, padding=2, groups=2),
            nn.ReLU(inplace=True),
            ResponseNorm(size=5, alpha=1e-4, k=2.0),
            nn.MaxPool2d(3, stride=2),  # (n, 256, 13, 13)
            nn.Conv2d(256, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 384, 3, padding=1, groups=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1, groups=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),  # (n, 256, 6, 6)
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, num_classes),
        )
        self._initialize()

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))

    def _initialize(self) -> None:
        """§5: weights from N(0, 0.01²); biases 1 in layers 2, 4, 5, 6, 7, and 0 in 1, 3, 8."""
        layers = [layer for layer in self.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        for layer, bias in zip(layers, (0, 1, 0, 1, 1, 1, 1, 0), strict=True):
            fill_normal(layer, std=0.01, bias=bias)


def alexnet(num_classes: int, num_channels: int = 3) -> AlexNet:
    """The network of the paper: 224×224 RGB, 724,406,816 multiply-adds at 1000 classes."""
    return AlexNet(num_classes, num_channels)
