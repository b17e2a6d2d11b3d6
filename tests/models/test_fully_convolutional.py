"""Dense networks against brute force: the fixed-size network on every square of a larger image."""

import copy
from functools import cache

import pytest
import torch
import torchvision
from torch import Tensor, nn

from pipeline.models.fully_convolutional import fully_convolutional
from pipeline.models.zoo import NETWORKS
from pipeline.runtime.errors import UserError

SIZE = 224
FAMILIES = ["alexnet", "vgg_a", "googlenet", "resnet18", "densenet121"]
JUMP = 32  # pixels between neighbouring positions, in every family


@cache
def network(name: str) -> nn.Module:
    """A network whose layers all do something: He's deviations, and statistics of their own."""
    torch.manual_seed(0)
    model = NETWORKS[name](num_classes=5, num_channels=3)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.1)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.running_var, 0.8, 1.2)
    return model.eval()


class CentreOfWindow(nn.Module):
    """What a pooling of 3 in steps of 2 looks at if it sees no neighbours."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.stride = pool.stride
        self.start = 1 - pool.padding

    def forward(self, x: Tensor) -> Tensor:
        return x[..., self.start :: self.stride, self.start :: self.stride]


def without_neighbours(model: nn.Module) -> nn.Module:
    """Return the network with every kernel 0 but for its centre, so that no border matters.

    The centre grows, so that activations stay as large. The last layers keep their windows, which
    lie in the map.
    """
    model = copy.deepcopy(model)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            kernel = torch.zeros_like(layer.weight)
            y, x = (side // 2 for side in layer.kernel_size)
            kernel[..., y, x] = layer.weight.data[..., y, x] * layer.kernel_size[0]
            layer.weight.data = kernel
        for name, child in layer.named_children():
            if isinstance(child, nn.MaxPool2d) and child.kernel_size == 3:
                setattr(layer, name, CentreOfWindow(child))
    return model


def by_brute_force(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits of every square of `SIZE`, `JUMP` pixels apart."""
    down, across = ((side - SIZE) // JUMP + 1 for side in images.shape[2:])
    squares = [
        images[:, :, JUMP * y : JUMP * y + SIZE, JUMP * x : JUMP * x + SIZE]
        for y in range(down)
        for x in range(across)
    ]
    logits = torch.cat([model(square) for square in squares])
    return logits.reshape(down, across, len(images), -1).permute(2, 3, 0, 1)


@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_one_square_gives_the_networks_own_logits(name: str) -> None:
    model = network(name)
    images = torch.randn(1, 3, SIZE, SIZE)
    logits = fully_convolutional(model, SIZE)(images)
    assert logits.shape == (1, 5, 1, 1)
    torch.testing.assert_close(logits.flatten(1), model(images), rtol=1e-4, atol=1e-4)
    assert model.training is False
    assert isinstance(model.flatten, nn.Flatten)  # the network itself is as before


@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_every_square_of_a_larger_image_gives_its_logits_without_border_effects(name: str) -> None:
    """With kernels that see only their centre, all positions must agree: the same grid of squares.

    Every stride, pooling, window and weight of the last layers is in it; borders aren't.
    """
    model = without_neighbours(network(name))
    # Noise over blocks of another mean each, so that squares differ whatever ran before.
    number, generator = SIZE // JUMP + 1, torch.Generator().manual_seed(0)
    blocks = torch.randn(1, 3, number, number, generator=generator)
    images = blocks.repeat_interleave(JUMP, 2).repeat_interleave(JUMP, 3)
    images += torch.randn(images.shape, generator=generator)
    logits = fully_convolutional(model, SIZE)(images)
    expected = by_brute_force(model, images)
    assert expected.std(dim=(2, 3)).max() > 1e-2 * expected.std()  # squares do differ
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


@pytest.mark.parametrize("name", ["alexnet", pytest.param("vgg_a", marks=pytest.mark.slow)])
@torch.inference_mode()
def test_without_padding_every_square_gives_its_logits(name: str) -> None:
    """Convolutions as they are, but for their padding; the square grows by what they then take."""
    model = copy.deepcopy(network(name))
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.padding = (0, 0)
    if name == "alexnet":
        model.edge = nn.Identity()
    side = smallest_square(model)
    images = torch.randn(1, 3, side + JUMP, side + JUMP)
    dense = fully_convolutional(model, side)(images)
    squares = [images[:, :, y : y + side, x : x + side] for y in (0, JUMP) for x in (0, JUMP)]
    expected = torch.cat([model(square) for square in squares]).T.reshape(1, 5, 2, 2)
    torch.testing.assert_close(dense, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


def smallest_square(model: nn.Module) -> int:
    """Return the side at which the first fully connected layer gets what it takes."""
    shapes = copy.deepcopy(model).to("meta")
    for side in range(SIZE, 2 * SIZE):
        x = torch.zeros(1, 3, side, side, device="meta")
        for layer in shapes.children():
            if isinstance(layer, nn.Flatten):
                break
            x = layer(x)
        if x[0].numel() == model.fc6.in_features:
            return side
    raise AssertionError("no side fits")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_border_effects_are_measured(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The squares' zero padding is what differs. Its share of the logits' spread over squares and
    classes is printed; random weights make it larger than trained ones would.
    """
    model = network(name)
    images = torch.rand(1, 3, SIZE + 2 * JUMP, SIZE + 2 * JUMP)
    difference = fully_convolutional(model, SIZE)(images) - by_brute_force(model, images)
    share = difference.square().mean(dim=(0, 1)).sqrt() / by_brute_force(model, images).std()
    with capsys.disabled():
        print(f"\n{name}: {share.min():.3f} to {share.max():.3f} of the logits' deviation")
    assert share.max() > 0


def test_a_network_with_other_last_layers_is_refused() -> None:
    for last in (nn.AdaptiveMaxPool2d(1), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Tanh())):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), last, nn.Flatten())
        with pytest.raises(UserError, match="choose a protocol of crops"):
            fully_convolutional(model, 32)


@pytest.mark.parametrize("forward", ["flattened", "averaged", "map"])
@torch.inference_mode()
def test_a_network_that_is_convolutional_already_gives_every_position(forward: str) -> None:
    """As SqueezeNet: a convolution gives a map of logits, whose mean is the network's output."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Conv2d(8, 5, 1), nn.ReLU())
    last = {"flattened": [nn.AdaptiveAvgPool2d(1), nn.Flatten()], "map": []}
    model = nn.Sequential(features, *last.get(forward, [nn.AdaptiveAvgPool2d((1, 1))]))
    images = torch.randn(2, 3, 40, 36)
    dense = fully_convolutional(model, 32)(images)
    assert dense.shape == (2, 5, 3, 2) if forward != "map" else (2, 5, 10, 9)
    squares = features(images).unfold(2, 8, 1).unfold(3, 8, 1).mean((4, 5))
    torch.testing.assert_close(dense, features(images) if forward == "map" else squares)
    one = fully_convolutional(model, 32)(images[:, :, :32, :32]).mean((2, 3))
    expected = model(images[:, :, :32, :32])
    torch.testing.assert_close(one, expected.mean((2, 3)) if expected.dim() > 2 else expected)


@torch.inference_mode()
def test_squeezenet_is_one() -> None:
    model = torchvision.models.squeezenet1_1(num_classes=5).eval()
    images = torch.randn(1, 3, 64, 64)
    logits = fully_convolutional(model, 64)(images)
    torch.testing.assert_close(logits.flatten(1), model(images))
    wider = fully_convolutional(model, 64)(torch.randn(1, 3, 64, 96))
    assert wider.shape == (1, 5, 1, 3)


def test_a_network_without_convolutions_is_refused() -> None:
    dense = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    with pytest.raises(UserError, match="Sequential can't be made fully convolutional"):
        fully_convolutional(dense, 8)
