"""The crops of the papers' test protocols, place by place; each image is decoded once for them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from serialized_graph import parse_graph

from pipeline.config.cluster import LoadingConfig
from pipeline.config.protocol import GOOGLE_144, CenterCrop, Crops, grid, ten_crop
from pipeline.config.recipe import InputConfig
from pipeline.data.loading import pil
from pipeline.data.loading.boxes import protocol_boxes
from pipeline.data.loading.dali import view_graph
from pipeline.data.loading.loader import (
    build_loader,
    dense_plan,
    evaluation_plan,
    images_a_batch,
    share_of,
)
from pipeline.data.store.store import Split

RGB = InputConfig(size=224, mean=(0, 0, 0), std=(1, 1, 1))
CPU = torch.device("cpu")
LANDSCAPE = np.array([[256, 384]])  # no pixel is rescaled at 256
PORTRAIT = LANDSCAPE[:, ::-1]


def places(protocol: CenterCrop | Crops, sizes: np.ndarray) -> list[tuple[int, ...]]:
    """Return (y, x, height, width) of each box on one image, in whole pixels."""
    boxes = np.concatenate(protocol_boxes(protocol, 224, sizes))
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


def test_a_squashed_image_loses_its_shape_and_nothing_else() -> None:
    (box,) = protocol_boxes(CenterCrop(squash=True), 224, LANDSCAPE)
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
    squares = [box for box in found if box[2:] == (256, 256)]  # seen whole
    assert [square[axis] for square in squares] == [0, 64, 128]
    assert [square[1 - axis] for square in squares] == [0, 0, 0]
    for number, square in enumerate(squares):
        crops = [(y - square[0], x - square[1]) for y, x, *_ in found[6 * number : 6 * number + 5]]
        assert crops == [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]
    assert len(protocol_boxes(GOOGLE_144, 224, sizes)) == 72  # 144 with the mirrored ones


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(20, 900), st.integers(20, 900)), min_size=1, max_size=4),
    protocol=st.sampled_from([ten_crop(256), ten_crop(300, "center-square"), grid(256, 384, 512)]),
)
def test_every_crop_lies_in_its_image(sizes: list[tuple[int, int]], protocol: Crops) -> None:
    extents = np.array(sizes)
    for box in protocol_boxes(protocol, 224, extents):
        assert (box[:, :2] >= 0).all()
        assert (box[:, :2] + box[:, 2:] <= extents + 1e-9).all()


def crops_of(split: Split, protocol: Crops, backend: str) -> tuple[torch.Tensor, list[int]]:
    plan = evaluation_plan(protocol, 224, split, 0, 1, 2 * protocol.num_boxes)
    loader = build_loader(
        split,
        plan,
        RGB,
        LoadingConfig(backend=backend),
        CPU,
        max_batch_size=images_a_batch(protocol, 2 * protocol.num_boxes),
        fill=None,
        channels_last=True,
        boxes_per_image=protocol.num_boxes,
    )
    batches = list(loader)
    loader.close()
    indices = torch.cat([batch.indices for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    assert labels.tolist() == split.labels[indices].tolist()
    return torch.cat([batch.images for batch in batches]), indices.tolist()


@pytest.mark.parametrize("of", ["image", "center-square", "three-squares"])
def test_both_executors_show_the_same_crops(photos: Split, of: str) -> None:
    """Measured: the worst crop differs by 0.2 grey levels on average."""
    protocol = Crops(resize=(280,), of=of, positions="corners-and-center", stretched=True)
    each = protocol.num_boxes
    ours, order = crops_of(photos, protocol, "dali")
    judged, same_order = crops_of(photos, protocol, "reference")
    assert order == same_order == [i for i in range(len(photos)) for _ in range(each)]
    assert ours.shape == judged.shape == (len(photos) * each, 3, 224, 224)
    assert (ours - judged).abs().mean(dim=(1, 2, 3)).max() < 0.5


def test_the_crop_in_the_middle_is_the_centre_crop(photos: Split) -> None:
    crops, _ = crops_of(photos, ten_crop(256), "dali")
    alone, _ = crops_of(photos, Crops(resize=(256,), positions="center"), "dali")
    # The decoder rounds a larger region otherwise: by half a grey level here and there.
    assert (crops[2::5] - alone).abs().mean() < 0.1


def test_an_image_is_decoded_once_for_all_its_crops(
    photos: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []

    def decode(data: np.ndarray) -> Image.Image:
        decoded.append(len(data))
        return original(data)

    original = pil._decode
    monkeypatch.setattr(pil, "_decode", decode)
    crops_of(photos, grid(256), "reference")
    assert len(decoded) == len(photos)
    graph = view_graph(
        lambda: None, "gpu", RGB, None, True, 72, batch_size=2, num_threads=1, device_id=None
    )
    kinds = [operator.kind for operator in parse_graph(graph.serialize()).operators]
    assert sum("Decoder" in kind or "decoders" in kind for kind in kinds) == 1
    assert kinds.count("Resize") == 72


@settings(max_examples=20, deadline=None)
@given(world_size=st.integers(1, 8), batch_size=st.integers(1, 30), num_images=st.integers(1, 12))
def test_dense_batches_are_of_one_shape_and_hold_every_image_once(
    photos: Split, world_size: int, batch_size: int, num_images: int
) -> None:
    split = first_of(photos, num_images)
    seen: list[int] = []
    for rank in range(world_size):
        for views in dense_plan(256, 224, split, rank, world_size, batch_size):
            sizes = split.sizes[views.images].astype(int)
            assert min(views.shape) == 256
            rescaled = 256 * sizes // sizes.min(axis=1, keepdims=True)
            assert (rescaled == views.shape).all()
            pixels = len(views.images) * views.shape[0] * views.shape[1]
            assert len(views.images) == 1 or pixels <= batch_size * 224**2
            seen += views.images.tolist()
        assert set(share_of(num_images, rank, world_size)) <= set(seen)
    assert sorted(seen) == list(range(num_images))


def first_of(split: Split, num_images: int) -> Split:
    """Return a split of its first images, as far as plans look at one."""

    class First:
        sizes = split.sizes[:num_images]

        def __len__(self) -> int:
            return num_images

    return First()  # type: ignore[return-value]
