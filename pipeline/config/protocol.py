"""Test protocols: how an image is shown to a network, and how the outputs are averaged.

A kind of protocol is one class: its keys in a recipe, its boxes and its name. To add one, write its
class, add it to `BoxProtocol`, and its names to the tables that read names back.

A protocol's name at an input size is what results are tracked and compared under; the published
numbers (`published.yaml`) use the same names. `parse_protocol` knows the short names of the papers
as well.
"""

import re
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from pipeline.config.boxes import (
    Floats,
    Integers,
    center_offset,
    crop_of_resized,
    resized,
    whole_image,
)
from pipeline.config.yaml import Section, read_mapping, validate
from pipeline.runtime.errors import UserError
from pipeline.runtime.names import suggest

Sides = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]

# What is averaged over the views of an image: the softmax of each, or what goes into it.
Average = Literal["probabilities", "logits"]

_PUBLISHED_SIZE = 224  # of the crops behind names that don't say it


class WholeImage(Section):
    """The whole image, stretched to the input size."""

    kind: Literal["whole"] = "whole"

    flip: ClassVar[bool] = False
    average: ClassVar[Average] = "probabilities"
    num_boxes: ClassVar[int] = 1
    num_views: ClassVar[int] = 1

    def smallest_side(self, size: int) -> int:
        return size

    def boxes(self, size: int, sizes: Integers) -> list[Floats]:
        return [whole_image(sizes)]

    def name(self, size: int) -> str:
        return "whole"


class CenterCrop(Section):
    """Shorter side to `resize` (longer side rounded down), then the centre square of input size.

    VGG §3.2. `squash` makes both sides `resize`, as Caffe's AlexNet was tested; `flip` adds the
    mirrored view.
    """

    kind: Literal["center"] = "center"
    resize: PositiveInt = 256
    squash: bool = False
    flip: bool = False
    average: Average = "probabilities"

    num_boxes: ClassVar[int] = 1

    @property
    def num_views(self) -> int:
        return 1 + self.flip

    def smallest_side(self, size: int) -> int:
        return self.resize

    def boxes(self, size: int, sizes: Integers) -> list[Floats]:
        resized_sizes = (
            np.full_like(sizes, self.resize) if self.squash else resized(sizes, self.resize)
        )
        offsets = center_offset(resized_sizes, size)
        return [crop_of_resized(offsets, size, resized_sizes, sizes)]

    def name(self, size: int) -> str:
        crop = f"{'flip' if self.flip else 'center'}{'-squash' * self.squash}"
        return f"{crop}-{self.resize}-{size}{_suffix(self.average)}"


class Crops(Section):
    """Squares of input size, at each shorter side of `resize`, in each area that `of` names.

    The areas are the image, its centre square, or three squares along its longer side (GoogLeNet
    §7). `positions` in an area: its centre, that and its corners, or a regular grid of so many a
    side. `stretched` adds the whole area at input size, `flip` each view mirrored.
    """

    kind: Literal["crops"] = "crops"
    resize: Sides
    of: Literal["image", "center-square", "three-squares"] = "image"
    positions: Literal["center", "corners-and-center"] | Annotated[int, Field(ge=2)]
    stretched: bool = False
    flip: bool = True
    average: Average = "probabilities"

    @property
    def num_boxes(self) -> int:
        match self.positions:
            case "center":
                positions = 1
            case "corners-and-center":
                positions = 5
            case per_side:
                positions = per_side * per_side
        areas = 3 if self.of == "three-squares" else 1
        return len(self.resize) * areas * (positions + self.stretched)

    @property
    def num_views(self) -> int:
        return self.num_boxes * (1 + self.flip)

    def smallest_side(self, size: int) -> int:
        return min(self.resize)

    def boxes(self, size: int, sizes: Integers) -> list[Floats]:
        boxes = []
        for side in self.resize:
            resized_sizes = resized(sizes, side)
            pixel = sizes / resized_sizes
            for start, extent in self._areas(side, resized_sizes):
                boxes += [
                    crop_of_resized(start + offset, size, resized_sizes, sizes)
                    for offset in self._offsets(size, extent)
                ]
                if self.stretched:
                    boxes.append(np.concatenate([start * pixel, extent * pixel], axis=1))
        return boxes

    def _areas(self, side: int, resized_sizes: Integers) -> list[tuple[Integers, Integers]]:
        """Return the offset and the extent, each (n, 2), of every area that crops are cut from."""
        zero = np.zeros_like(resized_sizes)
        square = np.full_like(resized_sizes, side)
        center = center_offset(resized_sizes, side)
        match self.of:
            case "image":
                return [(zero, resized_sizes)]
            case "center-square":
                return [(center, square)]
            case "three-squares":  # left, centre and right, or top, centre and bottom
                return [(start, square) for start in (zero, center, resized_sizes - side)]

    def _offsets(self, size: int, extent: Integers) -> list[Integers]:
        """Return the offsets (n, 2) of crops of `size` within areas of `extent` (n, 2)."""
        center, last = center_offset(extent, size), extent - size
        match self.positions:
            case "center":
                return [center]
            case "corners-and-center":
                return [last * (0, 0), last * (0, 1), center, last * (1, 0), last * (1, 1)]
            case per_side:
                steps = np.linspace(0, 1, per_side)
                return [np.rint(last * (y, x)).astype(np.int64) for y in steps for x in steps]

    def name(self, size: int) -> str:
        plain = self.model_copy(update={"average": "probabilities"})
        sides = _joined(self.resize)
        if plain == GOOGLE_144:
            name = f"google-144{_at(size)}"
        elif plain == ten_crop(self.resize[0]):
            name = f"ten-crop-{sides}-{size}"
        elif plain == ten_crop(self.resize[0], "center-square"):
            name = f"ten-crop-square-{sides}-{size}"
        elif plain == grid(*self.resize):
            name = f"grid-{self.num_views}-{sides}{_at(size)}"
        else:
            options = f"{'-stretched' * self.stretched}{'-mirrored' * self.flip}"
            crops = f"crops-{self.num_views}-of-{self.of}-{self.positions}{options}"
            name = f"{crops}-{sides}-{size}"
        return name + _suffix(self.average)


class Dense(Section):
    """The whole image at each shorter side of `resize`, by the network made fully convolutional.

    Its logits are averaged over the positions; then as `average` says over sides and `flip` (VGG
    §3.2, ResNet §3.4).
    """

    kind: Literal["dense"] = "dense"
    resize: Sides
    flip: bool = True
    average: Average = "probabilities"

    @property
    def num_views(self) -> int:
        return len(self.resize) * (1 + self.flip)

    def smallest_side(self, size: int) -> int:
        return min(self.resize)

    def name(self, size: int) -> str:
        mirroring = "" if self.flip else "-unmirrored"
        return f"dense-{_joined(self.resize)}{mirroring}{_at(size)}{_suffix(self.average)}"


class DenseAndCrops(Section):
    """The mean of what a dense protocol and crops give, one half each (VGG §4.3)."""

    kind: Literal["dense-and-crops"] = "dense-and-crops"
    dense: Dense
    crops: Crops

    average: ClassVar[Average] = "probabilities"

    @model_validator(mode="after")
    def _averages_probabilities(self) -> Self:
        if "logits" in (self.dense.average, self.crops.average):
            raise ValueError("dense-and-crops averages probabilities; leave out average: logits")
        return self

    @property
    def num_views(self) -> int:
        return self.dense.num_views + self.crops.num_views

    def smallest_side(self, size: int) -> int:
        return min(self.dense.smallest_side(size), self.crops.smallest_side(size))

    def name(self, size: int) -> str:
        if self == dense_and_grid(*self.crops.resize):
            return f"dense-and-grid-{_joined(self.crops.resize)}{_at(size)}"
        return f"{self.dense.name(size)}-and-{self.crops.name(size)}"


BoxProtocol = WholeImage | CenterCrop | Crops
TestProtocol = Annotated[BoxProtocol | Dense | DenseAndCrops, Field(discriminator="kind")]
SingleView = WholeImage | CenterCrop


def ten_crop(resize: int, of: Literal["image", "center-square"] = "image") -> Crops:
    """Corners and centre, mirrored: of the centre square (AlexNet §4.1), or the image (He, fb)."""
    return Crops(resize=(resize,), of=of, positions="corners-and-center")


def grid(*sides: int) -> Crops:
    """5 × 5 crops, mirrored, at each side (VGG §3.2): 150 at three sides."""
    return Crops(resize=sides, positions=5)


def dense_and_grid(*sides: int) -> DenseAndCrops:
    """Dense and 5 × 5 crops, one half each, at each side (VGG §4.3)."""
    return DenseAndCrops(dense=Dense(resize=sides), crops=grid(*sides))


GOOGLE_144: Crops = Crops(  # GoogLeNet §7
    resize=(256, 288, 320, 352), of="three-squares", positions="corners-and-center", stretched=True
)
MULTI_SCALE: Dense = Dense(resize=(224, 256, 384, 480, 640))  # ResNet §3.4

# Short names, from the network's own centre crop and from the three sides that VGG tests at.
_SHORT_NAMES: dict[str, Callable[[CenterCrop, tuple[int, int, int]], TestProtocol]] = {
    "whole": lambda center, sides: WholeImage(),
    "center": lambda center, sides: center,
    "center-squash": lambda center, sides: CenterCrop(resize=center.resize, squash=True),
    "flip": lambda center, sides: center.model_copy(update={"flip": True}),
    "ten-crop": lambda center, sides: ten_crop(center.resize),
    "ten-crop-square": lambda center, sides: ten_crop(center.resize, "center-square"),
    "dense": lambda center, sides: Dense(resize=sides[1:2]),
    "dense-3-scales": lambda center, sides: Dense(resize=sides),
    "vgg-150": lambda center, sides: grid(*sides),
    "dense-and-vgg-150": lambda center, sides: dense_and_grid(*sides),
    "google-144": lambda center, sides: GOOGLE_144,
    "multi-scale": lambda center, sides: MULTI_SCALE,
}

_N = r"[1-9][0-9]*"
_SIDES = rf"({_N}(?:-{_N})*)"
_AT = rf"(?:-at-{_N})?"

# Whole names. One is accepted only if the protocol made of it has that name: the numbers of views
# and the input size are checked so.
_NAME_PATTERNS: dict[str, Callable[[re.Match[str]], TestProtocol | None]] = {
    rf"(center|flip)(-squash)?-({_N})-{_N}": lambda found: CenterCrop(
        resize=int(found[3]), squash=bool(found[2]), flip=found[1] == "flip"
    ),
    rf"ten-crop-({_N})-{_N}": lambda found: ten_crop(int(found[1])),
    rf"ten-crop-square-({_N})-{_N}": lambda found: ten_crop(int(found[1]), "center-square"),
    rf"grid-{_N}-{_SIDES}{_AT}": lambda found: grid(*_split(found[1])),
    rf"google-144{_AT}": lambda found: GOOGLE_144,
    rf"crops-{_N}-of-(image|center-square|three-squares)"
    rf"-(center|corners-and-center|[2-9]|[1-9][0-9]+)(-stretched)?(-mirrored)?"
    rf"-{_SIDES}-{_N}": lambda found: Crops(
        resize=_split(found[5]),
        of=found[1],
        positions=int(found[2]) if found[2].isdecimal() else found[2],
        stretched=bool(found[3]),
        flip=bool(found[4]),
    ),
    rf"dense-{_SIDES}(-unmirrored)?{_AT}": lambda found: Dense(
        resize=_split(found[1]), flip=not found[2]
    ),
    rf"dense-and-grid-{_SIDES}{_AT}": lambda found: dense_and_grid(*_split(found[1])),
    r"(dense-.+?)-and-(.+)": lambda found: _of_both(_match(found[1]), _match(found[2])),
}


def parse_protocol(
    text: str, size: int, tested: TestProtocol, trained_sides: tuple[int, int] | None = None
) -> TestProtocol:
    """Return the protocol that `text` names, for a network of input `size`.

    `text` is a short name, a whole one ("ten-crop-256-224", "dense-256-384-512"), or a mapping in
    YAML ("{kind: crops, resize: [256, 288], positions: 3}"); "-logits" at a name's end averages
    logits. Short names follow the recipe: `tested` is its own protocol, `trained_sides` the
    smallest and the largest shorter side that it trained at, from which VGG's rules make the sides
    of dense tests. Raises `UserError`.
    """
    if text.lstrip().startswith("{"):
        content = {"protocol": read_mapping(text, "--protocol")}
        protocol = validate(_Choice, content, "--protocol").protocol
    else:
        protocol = _named(text, size, tested, trained_sides)
    side = protocol.smallest_side(size)
    if side < size:
        raise UserError(f"--protocol {text}: a side of {side} is smaller than the input, {size}")
    return protocol


class _Choice(Section):
    protocol: TestProtocol


def _named(
    text: str, size: int, tested: TestProtocol, trained_sides: tuple[int, int] | None
) -> TestProtocol:
    name = text.removesuffix("-logits")
    protocol = _match(name)
    if name in _SHORT_NAMES:
        center = tested if isinstance(tested, CenterCrop) else CenterCrop(resize=size * 8 // 7)
        small, large = trained_sides or (center.resize, center.resize)
        # VGG §3.2: trained at a fixed side S, or at sides drawn from a range.
        three = (max(1, small - 32), small, small + 32)
        if small < large:
            three = (small, (small + large) // 2, large)
        protocol = _SHORT_NAMES[name](center, three)
    elif protocol is None or protocol.name(size) != name:
        raise UserError(
            f"--protocol {text}: no such protocol of {size}-pixel input; "
            f"{suggest(name, _SHORT_NAMES)}, names as center-256-224, or a mapping as "
            "{kind: crops, resize: [256, 288], positions: 3}"
        )
    if name == text:
        return protocol
    if "average" not in type(protocol).model_fields:
        raise UserError(f"--protocol {text}: {name} has no logits to average")
    return protocol.model_copy(update={"average": "logits"})


def _match(name: str) -> TestProtocol | None:
    """Return the protocol of the first pattern of whole names that `name` matches."""
    for pattern, build in _NAME_PATTERNS.items():
        if found := re.fullmatch(pattern, name):
            return build(found)
    return None


def _of_both(dense: TestProtocol | None, crops: TestProtocol | None) -> DenseAndCrops | None:
    if isinstance(dense, Dense) and isinstance(crops, Crops):
        return DenseAndCrops(dense=dense, crops=crops)
    return None


def _split(sides: str) -> tuple[int, ...]:
    return tuple(int(side) for side in sides.split("-"))


def _joined(sides: tuple[int, ...]) -> str:
    return "-".join(map(str, sides))


def _at(size: int) -> str:
    return "" if size == _PUBLISHED_SIZE else f"-at-{size}"


def _suffix(average: Average) -> str:
    return "-logits" if average == "logits" else ""
