"""Protocols by their names: those of the papers, those of the published numbers, a user's own."""

import pytest

from pipeline.config.protocol import (
    GOOGLE_144,
    MULTI_SCALE,
    CenterCrop,
    Crops,
    Dense,
    DenseAndCrops,
    TestProtocol,
    WholeImage,
    grid,
    num_views,
    protocol_called,
    protocol_name,
    ten_crop,
)
from pipeline.results.published import protocol_words, published
from pipeline.runtime.errors import UserError

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
    (DenseAndCrops(dense=Dense(resize=THREE), crops=grid(*THREE)), 224,
     "dense-and-grid-256-384-512", 156),
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
    assert protocol_name(protocol, size) == name
    assert num_views(protocol) == views
    assert protocol_called(name, size, CenterCrop()) == protocol
    assert "/" not in name  # it is a part of a metric's name


def test_every_published_protocol_of_crops_or_dense_can_be_run() -> None:
    ours = {name for *_, name, _ in NAMED}
    sides = {f"dense-{sides}" for sides in ("384", "224-256-288", "352-384-416")}
    for name in sides:
        assert protocol_name(protocol_called(name, 224, CenterCrop()), 224) == name
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
    found = protocol_called(text, 224, CenterCrop(resize=232), trained_sides)
    assert protocol_name(found, 224) == name


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (299, 342), (32, 64)])
def test_what_a_short_name_stands_for_reads_back(size: int, resize: int) -> None:
    tested = CenterCrop(resize=resize)
    for name in ("center", "center-squash", "flip", "ten-crop", "ten-crop-square", "dense",
                 "dense-3-scales", "vgg-150", "dense-and-vgg-150", "google-144"):  # fmt: skip
        sides = (size + 32, size + 32)
        if name == "google-144" and size > 256:
            continue  # its smallest side
        found = protocol_called(name, size, tested, sides)
        assert protocol_called(protocol_name(found, size), size, tested, sides) == found


def test_a_side_below_32_leaves_other_names_alone() -> None:
    tested = CenterCrop(resize=28)
    assert protocol_called("flip", 28, tested) == CenterCrop(resize=28, flip=True)
    with pytest.raises(UserError, match="a side of 1 is smaller than the input, 28"):
        protocol_called("dense-3-scales", 28, tested)


def test_any_list_of_scales_positions_and_flips() -> None:
    text = "{kind: crops, resize: [256, 288], positions: 3, of: center-square, flip: false}"
    found = protocol_called(text, 224, WholeImage())
    assert found == Crops(resize=(256, 288), positions=3, of="center-square", flip=False)
    assert num_views(found) == 18
    assert protocol_name(found, 224) == "crops-18-of-center-square-3-256-288-224"


@pytest.mark.parametrize(
    ("text", "told"),
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
def test_others_are_refused_by_name(text: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        protocol_called(text, 224, CenterCrop())
