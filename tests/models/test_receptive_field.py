"""Receptive fields and jumps against what a gradient says, for every network with convolutions.

The networks run for real, on a strip longer than any field: the pixels that have a gradient from
one position of a map are those that it sees.
"""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.profile import ModelProfile, profile_model
from pipeline.models.receptive_field import AxisField, Window, merge_branches, windows_of
from pipeline.models.zoo import NETWORKS

CONVOLUTIONAL = sorted(NETWORKS.keys() - {"mnist1d_dense"})
# Kernels of different sides, branches, groups, pools that round up, padding on one side, shortcuts.
LAYER_BY_LAYER = [
    ("lenet5", 0),
    ("alexnet_code", 0),
    ("zfnet", 0),
    ("googlenet", 0),
    ("inception_v3", 0),
    ("inception_v3", 1),
    ("resnet18_option_a", 0),
    ("resnet50_v1_5", 0),
    ("mnist1d_conv", 0),
]


JOINING = ("Linear", "AdaptiveAvgPool2d")


class EqualWeights(nn.Module):
    """The convolution whose weights are all the same: a box over the mean of the channels.

    Its channels would all be the same too, so one stands for them.
    """

    def __init__(self, layer: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__()
        self.convolve = F.conv1d if isinstance(layer, nn.Conv1d) else F.conv2d
        self.box = torch.ones(1, 1, *layer.kernel_size) / math.prod(layer.kernel_size)
        self.geometry = layer.stride, layer.padding, layer.dilation

    def forward(self, maps: Tensor) -> Tensor:
        return self.convolve(maps.mean(dim=1, keepdim=True), self.box, None, *self.geometry)


class LastMapError(Exception):
    """Raised by `End`, with the last map."""


class End(nn.Module):
    """Stands where the positions of the last map are joined."""

    def forward(self, maps: Tensor) -> Tensor:
        raise LastMapError(maps)


def replacement(layer: nn.Module) -> nn.Module:
    """Return a layer that sees as much, has a gradient wherever it sees, and costs little."""
    match layer:
        case nn.Conv1d() | nn.Conv2d():
            return EqualWeights(layer)
        case nn.MaxPool2d():  # has a gradient to the largest value only
            size, stride, padding = layer.kernel_size, layer.stride, layer.padding
            return nn.AvgPool2d(size, stride, padding, layer.ceil_mode)
        case nn.ReLU() | nn.BatchNorm2d() | nn.Dropout() | nn.Flatten():
            return nn.Identity()
        case nn.Linear() | nn.AdaptiveAvgPool2d():
            return End()
    return layer


class Seeing:
    """A network made to show by gradients what its maps see along one axis of the input."""

    def __init__(self, name: str, axis: int, receptive_field: int, jump: int) -> None:
        with torch.device("meta"):
            network = NETWORKS[name](7)
        self.maps: dict[str, Tensor] = {}
        for layer_name, layer in list(network.named_modules()):
            if not any(layer.children()):
                self._replace(network, layer_name, replacement(layer))
        for parameter in network.to_empty(device="cpu").parameters():
            nn.init.constant_(parameter, 0.5)
        self.axis = axis
        short = 33 if network.input_shape.accepts(33) else 75  # enough for the layers to fit
        sides = [short] * network.input_shape.dimensions
        sides[axis] = receptive_field + 6 * jump
        self.images = torch.ones(1, network.input_shape.num_channels, *sides, requires_grad=True)
        try:
            network.eval()(self.images)
        except LastMapError as reached:
            (self.last_map,) = reached.args

    def _replace(self, network: nn.Module, name: str, layer: nn.Module) -> None:
        parent, _, own_name = name.rpartition(".")
        setattr(network.get_submodule(parent), own_name, layer)

        def record(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # Whether there is a gradient matters, not how much; so it can't vanish on a long way.
            output.register_hook(lambda gradient: (gradient != 0).to(gradient.dtype))
            self.maps[name] = output

        if not isinstance(layer, nn.Identity):
            layer.register_forward_hook(record)

    def support(self, maps: Tensor, beside: int = 0) -> tuple[int, int]:
        """The first and the last pixel seen by a position in the middle of `maps`, or beside it."""
        middle = [side // 2 for side in maps.shape[2:]]
        middle[self.axis] += beside
        seen = maps[(slice(None), slice(None), *middle)].sum()
        (gradient,) = torch.autograd.grad(seen, self.images, retain_graph=True)
        others = [d for d in range(gradient.dim()) if d != self.axis + 2]
        found = (gradient != 0).any(dim=tuple(others)).nonzero().flatten()
        return int(found[0]), int(found[-1])


def profile_of(name: str) -> ModelProfile:
    with torch.device("meta"):
        network = NETWORKS[name](7)
        return profile_model(network, network.input_shape.published)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_the_last_map_sees_as_far_as_its_gradient_reaches(name: str) -> None:
    profile = profile_of(name)
    jump = jump_of_last_map(profile)
    seeing = Seeing(name, 0, profile.receptive_field[0], jump)
    first, last = seeing.support(seeing.last_map)
    assert (last - first + 1,) * len(profile.receptive_field) == profile.receptive_field
    beside, _ = seeing.support(seeing.last_map, beside=1)
    assert beside - first == jump


@pytest.mark.parametrize(("name", "axis"), LAYER_BY_LAYER)
def test_every_map_sees_as_far_as_its_gradient_reaches(name: str, axis: int) -> None:
    profile = profile_of(name)
    seeing = Seeing(name, axis, profile.receptive_field[axis], jump_of_last_map(profile))
    for layer in profile.layers:
        if layer.kind in JOINING or all(window.kernel == 1 for window in layer.windows):
            continue  # the last map is in the other test, and 1×1 is seen by what comes after
        first, last = seeing.support(seeing.maps[layer.name])
        assert last - first + 1 == layer.receptive_field[axis], layer.name


def jump_of_last_map(profile: ModelProfile) -> int:
    return next(layer.jump[0] for layer in profile.layers if layer.kind in JOINING)


# Well known, counted by the rules of Araujo, Norris & Sim 2019; the sums are by hand.
KNOWN = {
    "alexnet": 195,
    "vgg16": 212,
    "resnet50": 483,
    "resnet101": 1027,
    "resnet152": 1507,
    "inception_v3": 1311,
    "resnet50_v1_5": 427,
    "googlenet": 27 + 2 * 4 * 8 + 2 * 8 + 5 * 4 * 16 + 2 * 16 + 2 * 4 * 32,
    "mnist1d_conv": 3 + 2 * 2 + 2 * 4,
    "mnist1d_dense": 1,
}


@pytest.mark.parametrize("name", KNOWN)
def test_last_maps_see_what_is_known(name: str) -> None:
    assert set(profile_of(name).receptive_field) == {KNOWN[name]}


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("alexnet", {"edge": 1, "conv1": 11, "pool1": 19, "conv2": 51, "conv5": 163,
                     "pool5": 195, "flatten": 195, "fc6": 195 + 5 * 32, "fc8": 355}),
        ("vgg16", {"conv1_2": 5, "pool4": 100, "conv5_3": 196, "pool5": 212, "fc6": 404}),
        ("lenet5_modern", {"layers.0": 5, "layers.2": 6, "layers.3": 14, "layers.5": 16,
                           "layers.6": 32}),
        ("mnist1d_conv", {"layers.7": 15 + 3 * 8}),
        ("mnist1d_dense", {"layers.0": 1, "layers.1": 40, "layers.7": 40}),
    ],
)  # fmt: skip
def test_layers_see_what_they_do_by_hand(name: str, known: dict[str, int]) -> None:
    fields = {layer.name: layer.receptive_field for layer in profile_of(name).layers}
    assert {layer: set(fields[layer]) for layer in known} == {k: {v} for k, v in known.items()}


def test_sides_of_a_kernel_count_for_their_own_axis() -> None:
    layers = {layer.name: layer for layer in profile_of("inception_v3").layers}
    before = layers["mixed_6b.conv7x7.0.conv"].receptive_field[0]
    lying = layers["mixed_6b.conv7x7.1.conv"]
    assert [window.kernel for window in lying.windows] == [1, 7]
    assert lying.receptive_field == (before, before + 6 * 16)
    assert layers["mixed_6b.conv7x7.2.conv"].receptive_field == (before + 6 * 16,) * 2


def test_windows_follow_each_other() -> None:
    axis = AxisField(100).after(Window(kernel=3, stride=2, padding=(0, 3)), 51)
    assert axis == AxisField(51, first=0, last=2, jump=2)
    dilated = axis.after(Window(kernel=3, padding=(2, 2), dilation=2), 51)
    assert dilated == AxisField(51, first=-4, last=6, jump=2)
    assert dilated.receptive_field == 11


def test_branches_with_other_centres_see_more_than_each() -> None:
    left, right = AxisField(10, first=-4, last=0), AxisField(10, first=0, last=2)
    assert merge_branches([left, right]).receptive_field == 7
    with pytest.raises(ValueError, match="other sizes or jumps"):
        merge_branches([left, AxisField(10, jump=2)])


@pytest.mark.parametrize(
    "layer", [nn.AdaptiveAvgPool2d(2), nn.Conv2d(1, 1, 3, padding="same")], ids=str
)
def test_a_layer_without_plain_numbers_is_refused(layer: nn.Module) -> None:
    with pytest.raises(NotImplementedError):
        windows_of(layer, (8, 8))
