"""The networks for MNIST-1D of Prince, "Understanding Deep Learning" (2023), §10.2.7.

40 values go in, 10 classes come out. The convolutional one has 2,050 parameters. Its fully
connected neighbour has layers of the same sizes, 285, 135 and 60, and errs more. It has 59,065
parameters, as a corrected version of the book counts; another one says 150,185.
"""

from torch import Tensor, nn

from pipeline.models.classifier import ImageClassifier, InputShape
from pipeline.models.initialization import fill_normal, he_std


class SignalClassifier(ImageClassifier):
    """A classifier of 1-D signals; its layers run in the order given."""

    input_shape = InputShape(num_channels=1, size=40, min_size=40, max_size=40, dimensions=1)
    published_classes = 10

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.head = (f"layers.{len(layers) - 1}",)
        for layer in layers:
            if isinstance(layer, nn.Conv1d | nn.Linear):
                fill_normal(layer, std=he_std(layer))

    def forward(self, signals: Tensor) -> Tensor:
        return self.layers(signals)


def mnist1d_conv(num_classes: int, num_channels: int = 1) -> SignalClassifier:
    """Three convolutions of 15 channels, kernel 3, stride 2, no padding: 19, 9, 4 positions."""
    return SignalClassifier(
        nn.Conv1d(num_channels, 15, 3, stride=2),  # (n, 15, 19)
        nn.ReLU(inplace=True),
        nn.Conv1d(15, 15, 3, stride=2),  # (n, 15, 9)
        nn.ReLU(inplace=True),
        nn.Conv1d(15, 15, 3, stride=2),  # (n, 15, 4)
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(15 * 4, num_classes),
    )


def mnist1d_dense(num_classes: int, num_channels: int = 1) -> SignalClassifier:
    """Fully connected, with as many units in each layer as the convolutional network."""
    return SignalClassifier(
        nn.Flatten(),
        nn.Linear(40 * num_channels, 15 * 19),
        nn.ReLU(inplace=True),
        nn.Linear(15 * 19, 15 * 9),
        nn.ReLU(inplace=True),
        nn.Linear(15 * 9, 15 * 4),
        nn.ReLU(inplace=True),
        nn.Linear(15 * 4, num_classes),
    )
