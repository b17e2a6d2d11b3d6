"""Test protocols: how an image is shown to a network, and how what it says is averaged.

A protocol's name at an input size is what results are tracked and compared under; the published
numbers (`published.yaml`) use the same names. `protocol_called` knows the short names of the papers
as well. Crops become boxes in `pipeline.data.loading.boxes`; dense protocols show whole images.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, Self, assert_never

from pydantic import Field, PositiveInt, model_validator

from pipeline.config.yaml import Section, read_mapping, validate
from pipeline.runtime.errors import UserError

Sides = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]

# What is averaged over the views of an image: the softmax of each, or what goes into it.
Average = Literal["probabilities", "logits"]

_PUBLISHED_SIZE = 224  # of the crops behind names that don't say it


class WholeImage(Section):
    """The whole image, stretched to the input size."""

    kind: Literal["whole"] = "whole"


class CenterCrop(Section):
    """Shorter side to `resize` (longer side rounded down), then the centre square of input size.

    `squash` makes both sides `resize`, as Caffe's AlexNet was tested; `flip` adds the mirrored
    view.
    """

    kind: Literal["center"] = "center"
    resize: PositiveInt = 256
    squash: bool = False
    flip: bool = False
    average: Average = "probabilities"


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
                each = 1
            case "corners-and-center":
                each = 5
            case grid:
                each = grid * grid
        areas = 3 if self.of == "three-squares" else 1
        return len(self.resize) * areas * (each + self.stretched)


class Dense(Section):
    """The whole image at each shorter side of `resize`, by the network made fully convolutional.

    Its logits are averaged over the positions; then as `average` says over sides and `flip` (VGG
    §3.2, ResNet §3.4).
    """

    kind: Literal["dense"] = "dense"
    resize: Sides
    flip: bool = True
    average: Average = "probabilities"


class DenseAndCrops(Section):
    """The mean of what a dense protocol and crops give, one half each (VGG §4.3)."""

    kind: Literal["dense-and-crops"] = "dense-and-crops"
    dense: Dense
    crops: Crops

    @model_validator(mode="after")
    def _averages_probabilities(self) -> Self:
        if "logits" in (self.dense.average, self.crops.average):
            raise ValueError("dense-and-crops averages probabilities; leave out average: logits")
        return self


TestProtocol = Annotated[
    WholeImage | CenterCrop | Crops | Dense | DenseAndCrops, Field(discriminator="kind")
]
SingleView = WholeImage | CenterCrop


def ten_crop(resize: int, of: Literal["image", "center-square"] = "image") -> Crops:
    """Corners and centre, mirrored: of the centre square (AlexNet §4.1), or the image (He, fb)."""
    return Crops(resize=(resize,), of=of, positions="corners-and-center")


def grid(*sides: int) -> Crops:
    """5 × 5 crops, mirrored, at each side (VGG §3.2): 150 at three sides."""
    return Crops(resize=sides, positions=5)


GOOGLE_144 = Crops(  # GoogLeNet §7
    resize=(256, 288, 320, 352), of="three-squares", positions="corners-and-center", stretched=True
)
MULTI_SCALE = Dense(resize=(224, 256, 384, 480, 640))  # ResNet §3.4


def num_views(protocol: TestProtocol) -> int:
    """Return how many views of an image a protocol averages; a whole image at a side is one."""
    match protocol:
        case WholeImage():
            return 1
        case CenterCrop(flip=flip):
            return 1 + flip
        case Crops(flip=flip):
            return protocol.num_boxes * (1 + flip)
        case Dense(resize=sides, flip=flip):
            return len(sides) * (1 + flip)
        case DenseAndCrops(dense=dense, crops=crops):
            return num_views(dense) + num_views(crops)
        case _:
            assert_never(protocol)


def is_dense(protocol: TestProtocol) -> bool:
    """Whether a network must be made fully convolutional for it."""
    return isinstance(protocol, Dense | DenseAndCrops)


def smallest_side(protocol: TestProtocol, size: int) -> int:
    """Return the smallest shorter side that crops of `size` are cut from."""
    match protocol:
        case WholeImage():
            return size
        case CenterCrop(resize=resize):
            return resize
        case Crops(resize=sides) | Dense(resize=sides):
            return min(sides)
        case DenseAndCrops(dense=dense, crops=crops):
            return min(*dense.resize, *crops.resize)
        case _:
            assert_never(protocol)


def protocol_name(protocol: TestProtocol, size: int) -> str:
    """Name a protocol at an input size: "whole", "center-256-224", "google-144"."""
    if getattr(protocol, "average", "") == "logits":
        plain = protocol.model_copy(update={"average": "probabilities"})
        return f"{protocol_name(plain, size)}-logits"
    at = "" if size == _PUBLISHED_SIZE else f"-at-{size}"
    match protocol:
        case WholeImage():
            return "whole"
        case CenterCrop(resize=resize, squash=squash, flip=flip):
            return f"{'flip' if flip else 'center'}{'-squash' * squash}-{resize}-{size}"
        case Crops():
            return _name_of_crops(protocol, size, at)
        case Dense(resize=sides, flip=flip):
            return f"dense-{_joined(sides)}{'' if flip else '-unmirrored'}{at}"
        case DenseAndCrops(dense=dense, crops=crops):
            return _name_of_both(dense, crops, size, at)
        case _:
            assert_never(protocol)


def _name_of_crops(crops: Crops, size: int, at: str) -> str:
    sides = _joined(crops.resize)
    if crops == GOOGLE_144:
        return f"google-144{at}"
    if len(crops.resize) == 1 and crops == ten_crop(crops.resize[0]):
        return f"ten-crop-{sides}-{size}"
    if len(crops.resize) == 1 and crops == ten_crop(crops.resize[0], "center-square"):
        return f"ten-crop-square-{sides}-{size}"
    if crops == grid(*crops.resize):
        return f"grid-{num_views(crops)}-{sides}{at}"
    words = [f"crops-{num_views(crops)}-of", crops.of, str(crops.positions)]
    words += ["stretched"] * crops.stretched + ["mirrored"] * crops.flip
    return "-".join([*words, sides, str(size)])


def _name_of_both(dense: Dense, crops: Crops, size: int, at: str) -> str:
    if dense == Dense(resize=crops.resize) and crops == grid(*crops.resize):
        return f"dense-and-grid-{_joined(crops.resize)}{at}"
    return f"{protocol_name(dense, size)}-and-{protocol_name(crops, size)}"


def _joined(sides: tuple[int, ...]) -> str:
    return "-".join(map(str, sides))


def protocol_called(
    text: str, size: int, tested: TestProtocol, trained_sides: tuple[int, int] | None = None
) -> TestProtocol:
    """Return the protocol that a user calls `text`, for a network of input `size`.

    `text` is a short name, a whole one ("ten-crop-256-224", "dense-256-384-512"), or a mapping in
    YAML ("{kind: crops, resize: [256, 288], positions: 3}"); "-logits" at a name's end averages
    logits. Short names follow the recipe: `tested` is its own protocol, `trained_sides` the
    smallest and the largest shorter side that it trained at, from which VGG's rules make the sides
    of dense tests. Raises `UserError`.
    """
    if text.lstrip().startswith("{"):
        return _fitting(_of_mapping(text), text, size)
    name = text.removesuffix("-logits")
    short = _short_names(size, tested, trained_sides)
    found = short.get(name) or _of_whole_name(name, size)
    if found is None:
        raise UserError(
            f"--protocol {text}: no such protocol of {size}-pixel input; there are: "
            f"{', '.join(short)}, names as center-256-224, or a mapping as {{kind: crops, resize: "
            "[256, 288], positions: 3}"
        )
    if name != text:
        if not hasattr(found, "average"):
            raise UserError(f"--protocol {text}: {name} has no logits to average")
        found = found.model_copy(update={"average": "logits"})
    return _fitting(found, text, size)


def _short_names(
    size: int, tested: TestProtocol, trained_sides: tuple[int, int] | None
) -> Mapping[str, TestProtocol]:
    center = tested if isinstance(tested, CenterCrop) else CenterCrop(resize=size * 8 // 7)
    resize = center.resize
    small, large = trained_sides or (resize, resize)
    # VGG §3.2: trained at a fixed side S, or at sides drawn from a range.
    middle = (small + large) // 2
    three = (small, middle, large) if small < large else (max(1, small - 32), small, small + 32)
    return {
        "whole": WholeImage(),
        "center": center,
        "center-squash": CenterCrop(resize=resize, squash=True),
        "flip": center.model_copy(update={"flip": True}),
        "ten-crop": ten_crop(resize),
        "ten-crop-square": ten_crop(resize, "center-square"),
        "dense": Dense(resize=(middle,)),
        "dense-3-scales": Dense(resize=three),
        "vgg-150": grid(*three),
        "dense-and-vgg-150": DenseAndCrops(dense=Dense(resize=three), crops=grid(*three)),
        "google-144": GOOGLE_144,
        "multi-scale": MULTI_SCALE,
    }


def _of_whole_name(name: str, size: int) -> TestProtocol | None:
    """Read a name back: that of the protocol, among those which its words allow, that has it."""
    candidates = _candidates(name, size)
    return next((one for one in candidates if protocol_name(one, size) == name), None)


_CROPS = re.compile(
    r"crops-\d+-of-(image|center-square|three-squares)-"
    r"(center|corners-and-center|[2-9]|[1-9]\d+)(-stretched)?(-mirrored)?((?:-[1-9]\d*)+)-\d+"
)


def _candidates(name: str, size: int) -> Iterator[TestProtocol]:
    words = name.removesuffix(f"-at-{size}").split("-")
    sides = tuple(int(word) for word in words if word.isdecimal())
    for length, start in ((len(sides), 0), (len(sides) - 1, 0), (len(sides) - 1, 1)):
        chosen = sides[start : start + length]
        if not chosen or 0 in chosen:
            continue
        yield from (CenterCrop(resize=chosen[0], squash=s, flip=f) for s in (0, 1) for f in (0, 1))
        yield ten_crop(chosen[0])
        yield ten_crop(chosen[0], "center-square")
        yield grid(*chosen)
        yield GOOGLE_144
        yield from (Dense(resize=chosen, flip=flip) for flip in (True, False))
        yield DenseAndCrops(dense=Dense(resize=chosen), crops=grid(*chosen))
    if found := _CROPS.fullmatch(name):
        of, positions, stretched, mirrored, each = found.groups()
        content = {
            "resize": [int(side) for side in each[1:].split("-")],
            "of": of,
            "positions": int(positions) if positions.isdecimal() else positions,
            "stretched": bool(stretched),
            "flip": bool(mirrored),
        }
        yield Crops.model_validate(content)
    one, both, other = name.partition("-and-")
    dense, crops = (_of_whole_name(part, size) if both else None for part in (one, other))
    if isinstance(dense, Dense) and isinstance(crops, Crops):
        yield DenseAndCrops(dense=dense, crops=crops)


class _Choice(Section):
    protocol: TestProtocol


def _of_mapping(text: str) -> TestProtocol:
    content = {"protocol": read_mapping(text, "--protocol")}
    return validate(_Choice, content, "--protocol").protocol


def _fitting(protocol: TestProtocol, text: str, size: int) -> TestProtocol:
    side = smallest_side(protocol, size)
    if side < size:
        raise UserError(f"--protocol {text}: a side of {side} is smaller than the input, {size}")
    return protocol
