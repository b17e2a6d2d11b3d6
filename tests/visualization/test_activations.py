import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.data.loading.loader import Batch
from pipeline.models.profile import profile_model
from pipeline.models.zoo import NETWORKS
from pipeline.visualization.activations import Activation, layer_output, strongest_activations


class Detector(nn.Module):
    """Unit 0 is active at bright pixels, unit 1 at dark ones."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Conv2d(1, 2, 1, bias=False)
        self.see.weight.data = torch.tensor([[[[1.0]]], [[[-1.0]]]])
        self.relu = nn.ReLU(inplace=True)
        self.flatten = nn.Flatten()
        self.out = nn.Linear(2 * 6 * 8, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.flatten(self.relu(self.see(images))))


def images_with(brightness: list[float]) -> Tensor:
    """Image i is 0 but for one pixel, at (i mod 6, i mod 8)."""
    images = torch.zeros(len(brightness), 1, 6, 8)
    for i, value in enumerate(brightness):
        images[i, 0, i % 6, i % 8] = value
    return images


def batches(images: Tensor, size: int) -> list[Batch]:
    indices = torch.arange(len(images))
    return [
        Batch.of(images[part], torch.zeros(len(part), dtype=torch.int64), part)
        for part in indices.split(size)
    ]


@pytest.mark.parametrize("batch_size", [1, 4, 13])
def test_the_strongest_activations_do_not_depend_on_the_batches(
    batch_size: int,
) -> None:
    brightness = np.random.default_rng(0).permutation(np.arange(-6, 7)).tolist()
    found = strongest_activations(
        Detector().eval(), "see", batches(images_with(brightness), batch_size), 3
    )
    assert len(found) == 2
    for unit, sign in enumerate((1, -1)):
        best = sorted(range(13), key=lambda i: -sign * brightness[i])[:3]
        assert found[unit] == [
            Activation(i, abs(brightness[i]), (i % 6, i % 8)) for i in best
        ]  # fmt: skip


def test_fewer_images_than_requested_and_layers_without_maps() -> None:
    model = Detector().eval()
    some = batches(images_with([1.0, 2.0]), 2)
    assert [len(best) for best in strongest_activations(model, "see", some)] == [2, 2]
    outputs = strongest_activations(model, "out", some)
    assert len(outputs) == 3
    assert outputs[0][0].position == ()


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "lenet5"])
def test_the_output_of_a_layer_has_the_shape_of_its_profile(name: str) -> None:
    """Also where it is called several times, as the ReLU of a residual block is."""
    model = NETWORKS[name](10).eval()
    channels, size = model.input_shape.num_channels, 32
    shapes = {
        layer.name: layer.output_shape
        for layer in profile_model(model, (channels, size, size)).layers
    }
    images = torch.zeros(1, channels, size, size)
    for layer, shape in shapes.items():
        assert layer_output(model, layer, images).shape[1:] == shape, layer
