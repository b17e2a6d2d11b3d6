"""Test protocols: the crops of the papers, place by place, and names that read back."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.protocol import (
    GOOGLE_144,
    MULTI_SCALE,
    BoxProtocol,
    CenterCrop,
    Crops,
    Dense,
    DenseAndCrops,
    TestProtocol,
    WholeImage,
    dense_and_grid,
    grid,
    parse_protocol,
    ten_crop,
)
from pipeline.config.recipe import load_recipe
from pipeline.results.published import protocol_words, published
from pipeline.runtime.errors import UserError

RECIPES = sorted((Path(__file__).parents[2] / "configs/recipes").glob("*.yaml"))
LANDSCAPE = np.array([[256, 384]])  # no pixel is resized at 256
PORTRAIT = LANDSCAPE[:, ::-1]
THREE = (256, 384, 512)
NAMED: list[tuple[TestProtocol, int, str, int]] = [
    (WholeImage(), 32, "whole", 1),
    (CenterCrop(), 224, "center-256-224", 1),
    (CenterCrop(resize=342), 299, "center-342-299", 1),
    (CenterCrop(squash=True), 224, "center-squash-256-224", 1),
    (CenterCrop(flip=True), 224, "flip-256-224", 2),
    (ten_crop(256), 224, "ten-crop-256-224", 10),
    (ten_crop(256, "center-square"), 224, "ten-crop-square-256-224", 10),
    (Dense(resize=(256,)), 224, "dense-256", 2),
    (Dense(resize=THREE), 224, "dense-256-384-512", 6),
    (Dense(resize=(384,), flip=False), 224, "dense-384-unmirrored", 1),
    (grid(*THREE), 224, "grid-150-256-384-512", 150),
    (GOOGLE_144, 224, "google-144", 144),
    (MULTI_SCALE, 224, "dense-224-256-384-480-640", 10),
    (dense_and_grid(*THREE), 224, "dense-and-grid-256-384-512", 156),
    (Dense(resize=(320, 352)), 299, "dense-320-352-at-299", 4),
    (ten_crop(256).model_copy(update={"average": "logits"}), 224, "ten-crop-256-224-logits", 10),
    (Crops(resize=(256, 288), positions=3), 224, "crops-36-of-image-3-mirrored-256-288-224", 36),
    (Crops(resize=(36,), of="three-squares", positions="corners-and-center", stretched=True), 32,
     "crops-36-of-three-squares-corners-and-center-stretched-mirrored-36-32", 36),
    (Crops(resize=(40,), positions="center", flip=False, average="logits"), 32,
     "crops-1-of-image-center-40-32-logits", 1),
    (DenseAndCrops(dense=Dense(resize=(256,), flip=False),
                   crops=Crops(resize=(288,), of="center-square", positions="corners-and-center",
                               flip=False)), 224,
     "dense-256-unmirrored-and-crops-5-of-center-square-corners-and-center-288-224", 6),
    (DenseAndCrops(dense=Dense(resize=(40,)), crops=ten_crop(36)), 32,
     "dense-40-at-32-and-ten-crop-36-32", 12),
]  # fmt: skip


@pytest.mark.parametrize(("protocol", "size", "name", "views"), NAMED, ids=lambda v: str(v)[:30])
def test_a_protocol_has_a_name_that_reads_back(
    protocol: TestProtocol, size: int, name: str, views: int
) -> None:
    assert protocol.name(size) == name
    assert protocol.num_views == views
    assert parse_protocol(name, size, CenterCrop()) == protocol
    assert "/" not in name  # it is a part of a metric's name


sides = st.lists(st.integers(32, 600), min_size=1, max_size=4).map(tuple)
areas = st.sampled_from(["image", "center-square", "three-squares"])
positions = st.sampled_from(["center", "corners-and-center"]) | st.integers(2, 20)
dense = st.builds(Dense, resize=sides, flip=st.booleans())
crops = st.builds(Crops, resize=sides, of=areas, positions=positions,
                  stretched=st.booleans(), flip=st.booleans())  # fmt: skip
one_average = st.one_of(
    dense,
    crops,
    st.builds(CenterCrop, resize=st.integers(32, 600), squash=st.booleans(), flip=st.booleans()),
    sides.map(lambda chosen: grid(*chosen)),
    st.integers(32, 600).map(ten_crop),
)
every_protocol = st.one_of(
    one_average,
    one_average.map(lambda protocol: protocol.model_copy(update={"average": "logits"})),
    st.builds(DenseAndCrops, dense=dense, crops=crops | sides.map(lambda chosen: grid(*chosen))),
    sides.map(lambda chosen: dense_and_grid(*chosen)),
)


@settings(deadline=None)
@given(protocol=every_protocol, size=st.sampled_from([32, 28, 224]))
def test_the_name_of_any_protocol_reads_back(protocol: TestProtocol, size: int) -> None:
    name = protocol.name(size)
    if protocol.smallest_side(size) < size:
        with pytest.raises(UserError, match="is smaller than the input"):
            parse_protocol(name, size, WholeImage())
    else:
        assert parse_protocol(name, size, WholeImage()) == protocol


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_protocol_of_a_shipped_recipe_reads_back(recipe: Path) -> None:
    shipped = load_recipe(str(recipe))
    name = shipped.evaluation.name(shipped.input.size)
    assert parse_protocol(name, shipped.input.size, WholeImage()) == shipped.evaluation


def test_every_published_protocol_of_crops_or_dense_can_be_run() -> None:
    ours = {name for *_, name, _ in NAMED}
    sides = {f"dense-{sides}" for sides in ("384", "224-256-288", "352-384-416")}
    for name in sides:
        assert parse_protocol(name, 224, CenterCrop()).name(224) == name
    # Inception's papers do not say which crops, three networks had sides of their own, and people
    # are no network; the others are a centre crop whose resizing isn't stated.
    not_run = {"inception-12", "inception-144", "dense-3-scales", "human", "unstated"}
    for name in {result.protocol for result in published()} - not_run - ours - sides:
        assert name.startswith("center-"), name
    assert all(protocol_words(name) != name for name in ours if "logits" not in name and
               name in {result.protocol for result in published()})  # fmt: skip


@pytest.mark.parametrize(
    ("text", "trained_sides", "name"),
    [
        ("center", None, "center-232-224"),
        ("flip", None, "flip-232-224"),
        ("ten-crop", None, "ten-crop-232-224"),
        ("ten-crop-logits", None, "ten-crop-232-224-logits"),
        # VGG's rules: at a fixed side S: S, and S ± 32; at a range: its middle, and its ends.
        ("dense", (256, 256), "dense-256"),
        ("dense", (256, 512), "dense-384"),
        ("dense-3-scales", (384, 384), "dense-352-384-416"),
        ("dense-3-scales", (256, 512), "dense-256-384-512"),
        ("vgg-150", (256, 512), "grid-150-256-384-512"),
        ("dense-and-vgg-150", (256, 512), "dense-and-grid-256-384-512"),
        ("google-144", None, "google-144"),
        ("multi-scale", None, "dense-224-256-384-480-640"),
    ],
)
def test_short_names_follow_the_recipe(
    text: str, trained_sides: tuple[int, int] | None, name: str
) -> None:
    found = parse_protocol(text, 224, CenterCrop(resize=232), trained_sides)
    assert found.name(224) == name


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (299, 342), (32, 64)])
def test_what_a_short_name_stands_for_reads_back(size: int, resize: int) -> None:
    tested = CenterCrop(resize=resize)
    for name in ("center", "center-squash", "flip", "ten-crop", "ten-crop-square", "dense",
                 "dense-3-scales", "vgg-150", "dense-and-vgg-150", "google-144"):  # fmt: skip
        sides = (size + 32, size + 32)
        if name == "google-144" and size > 256:
            continue  # its smallest side
        found = parse_protocol(name, size, tested, sides)
        assert parse_protocol(found.name(size), size, tested, sides) == found


def test_a_side_below_32_leaves_other_names_alone() -> None:
    tested = CenterCrop(resize=28)
    assert parse_protocol("flip", 28, tested) == CenterCrop(resize=28, flip=True)
    with pytest.raises(UserError, match="a side of 1 is smaller than the input, 28"):
        parse_protocol("dense-3-scales", 28, tested)


def test_a_mapping_chooses_any_sides_positions_and_flips() -> None:
    text = "{kind: crops, resize: [256, 288], positions: 3, of: center-square, flip: false}"
    found = parse_protocol(text, 224, WholeImage())
    assert found == Crops(resize=(256, 288), positions=3, of="center-square", flip=False)
    assert found.num_views == 18
    assert found.name(224) == "crops-18-of-center-square-3-256-288-224"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ten-crops", "no such protocol.*ten-crop"),
        ("whole-logits", "no logits"),
        ("dense-128", "128 is smaller"),
        ("center-200-224", "200 is smaller"),
        ("center-²", "no such protocol"),
        ("crops-18-of-image-3-mirrored-256-288-224", "no such protocol"),
        ("crops-0-of-image-0-256-224", "no such protocol"),
        ("dense-256-and-dense-256", "no such protocol"),
        ("center-256-299", "no such protocol of 224-pixel"),
        ("{kind: crops, resize: [256]}", "positions"),
        ("{kind: crops, resize: [], positions: 3}", "resize"),
        ("{kind: dense, resize: [256], size: 3}", "size"),
        ("{kind: [", "YAML"),
    ],
)
def test_other_names_and_mappings_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_protocol(text, 224, CenterCrop())


def places(protocol: CenterCrop | Crops, sizes: np.ndarray) -> list[tuple[int, ...]]:
    """Return (y, x, height, width) of each box on one image, in whole pixels."""
    boxes = np.concatenate(protocol.boxes(224, sizes))
    assert np.allclose(boxes, boxes.round())
    return [tuple(box) for box in boxes.round().astype(int).tolist()]


def test_alexnets_ten_crop_is_of_the_centre_square() -> None:
    # Offsets in cuda-convnet's 256×256 image, which starts at x = 64 here.
    offsets = [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]
    expected = [(y, 64 + x, 224, 224) for y, x in offsets]
    assert places(ten_crop(256, "center-square"), LANDSCAPE) == expected


def test_the_later_ten_crop_is_of_the_whole_image() -> None:
    expected = [(y, x, 224, 224) for y, x in [(0, 0), (0, 160), (16, 80), (32, 0), (32, 160)]]
    assert places(ten_crop(256), LANDSCAPE) == expected


def test_squash_makes_both_sides_equal() -> None:
    (box,) = CenterCrop(squash=True).boxes(224, LANDSCAPE)
    assert box.tolist() == [[16, 16 * 1.5, 224, 224 * 1.5]]


def test_vggs_grid_spans_the_image_evenly() -> None:
    found = places(grid(256), LANDSCAPE)
    assert len(found) == len(set(found)) == 25
    assert {y for y, *_ in found} == {0, 8, 16, 24, 32}
    assert {x for _, x, *_ in found} == {0, 40, 80, 120, 160}


@pytest.mark.parametrize(("sizes", "axis"), [(LANDSCAPE, 1), (PORTRAIT, 0)])
def test_googlenets_squares_lie_along_the_longer_side(sizes: np.ndarray, axis: int) -> None:
    at_256 = GOOGLE_144.model_copy(update={"resize": (256,)})
    found = places(at_256, sizes)
    assert len(found) == 18
    squares = [box for box in found if box[2:] == (256, 256)]  # shown whole
    assert [square[axis] for square in squares] == [0, 64, 128]
    assert [square[1 - axis] for square in squares] == [0, 0, 0]
    for number, square in enumerate(squares):
        crops = [(y - square[0], x - square[1]) for y, x, *_ in found[6 * number : 6 * number + 5]]
        assert crops == [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]
    assert len(GOOGLE_144.boxes(224, sizes)) == 72  # 144 with the mirrored ones


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(20, 900), st.integers(20, 900)), min_size=1, max_size=4),
    protocol=st.sampled_from([ten_crop(256), ten_crop(300, "center-square"), grid(256, 384, 512)]),
)
def test_every_crop_lies_in_its_image(sizes: list[tuple[int, int]], protocol: Crops) -> None:
    extents = np.array(sizes)
    for box in protocol.boxes(224, extents):
        assert (box[:, :2] >= 0).all()
        assert (box[:, :2] + box[:, 2:] <= extents + 1e-9).all()


def test_num_boxes_is_the_number_of_boxes() -> None:
    protocols = [protocol for protocol, *_ in NAMED if isinstance(protocol, BoxProtocol)]
    assert len(protocols) > 10
    for protocol in protocols:
        assert len(protocol.boxes(32, LANDSCAPE)) == protocol.num_boxes
